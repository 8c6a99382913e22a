#pragma once

#include <ATen/core/ATen_fwd.h>

#include <cstdint>

namespace espalier {

/// Sizes, strides and offset that a file gives for a view of `available` elements.
/// Errors   kModel unless every element lies inside.
void CheckInside(at::IntArrayRef sizes, at::IntArrayRef strides, int64_t offset, int64_t available);

/// The same of a tensor that exists and is to be stored: each of its elements has its own place.
void CheckOwnMemory(const at::Tensor& tensor);

/// Errors   kModel when what is to be read as booleans holds other bytes than 0 and 1.
void CheckBooleans(const at::Tensor& bytes);

}  // namespace espalier

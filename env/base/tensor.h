#pragma once

#include <ATen/core/Tensor.h>

namespace espalier {
using at::Tensor;
}  // namespace espalier

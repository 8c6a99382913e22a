#pragma once

#include <filesystem>

#include "env/base/tensor.h"

namespace espalier {

/// A PNG or JPEG image, told apart by its first bytes. channels: 3 (red, green, blue) or 1 (grey);
/// what the file has is converted, transparency laid over black; rotation tags are not followed.
///
/// Shapes   [channels, H, W] uint8.
/// Errors   kData naming the file: no such image, damaged or truncated, or more than 32 M pixels.
/// Threads  any.
Tensor ReadImage(const std::filesystem::path& path, int64_t channels);

}  // namespace espalier

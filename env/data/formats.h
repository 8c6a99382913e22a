#pragma once

#include <filesystem>
#include <string>

#include "env/data/splits.h"

namespace espalier {

/// Readers of the files data sets come in. All of them check before they use.
///
/// Shapes   images [N, C, H, W] uint8; labels [N] int64.
/// Errors   kData naming file, expected and found; `fetch` is the command of the hint.

/// A PNG that holds one image a row: 8-bit RGB, width = size * size, row = size x size x RGB.
Tensor ReadRowPng(const std::filesystem::path& path, int64_t rows, int64_t size,
                  const std::string& fetch);

/// A JSON array of integers in [0, classes).
Tensor ReadLabelJson(const std::filesystem::path& path, int64_t classes, const std::string& fetch);

/// CIFAR's binary records: `label_bytes` labels (the last one counts), then 3 x 32 x 32 bytes.
ImageSet ReadCifarBinary(const std::filesystem::path& path, int64_t records, int64_t label_bytes,
                         int64_t classes, const std::string& fetch);

/// MNIST's idx pair: big-endian headers 2051 (images) and 2049 (labels), then bytes.
ImageSet ReadIdxPair(const std::filesystem::path& images, const std::filesystem::path& labels,
                     int64_t classes, const std::string& fetch);

}  // namespace espalier

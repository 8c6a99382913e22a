#pragma once

#include <filesystem>
#include <functional>

namespace caffe2::serialize {
class PyTorchStreamWriter;
}  // namespace caffe2::serialize

namespace espalier {

/// Writes one of PyTorch's zip archives atomically. `fill` adds the records; the root folder is
/// always "archive", so equal contents give equal bytes.
/// Errors   kIo, kResource (disk full); whatever `fill` throws.
void WriteArchive(const std::filesystem::path& path,
                  const std::function<void(caffe2::serialize::PyTorchStreamWriter&)>& fill);

}  // namespace espalier

#include "env/graph/archive_writer.h"

#include <caffe2/serialize/inline_container.h>

#include <cerrno>
#include <cstring>
#include <fstream>

#include "env/base/error.h"
#include "env/base/files.h"

namespace espalier {

void WriteArchive(const std::filesystem::path& path,
                  const std::function<void(caffe2::serialize::PyTorchStreamWriter&)>& fill) {
  WriteFileAtomic(path, [&](const std::filesystem::path& temporary) {
    std::ofstream out(temporary, std::ios::binary | std::ios::trunc);
    int failure = out ? 0 : errno;
    {
      caffe2::serialize::PyTorchStreamWriter writer([&](const void* data, size_t count) {
        // A short write would make LibTorch throw from its destructor: report it ourselves below.
        out.write(static_cast<const char*>(data), static_cast<std::streamsize>(count));
        if (!out && failure == 0) failure = errno;
        return count;
      });
      writer.setMinVersion(6);
      fill(writer);
      writer.writeEndOfFile();
    }
    out.close();
    if (!out || failure != 0)
      throw Error(failure == ENOSPC ? ErrorKind::kResource : ErrorKind::kIo,
                  Str("cannot write '", path.string(), "': ", std::strerror(failure)));
  });
}

}  // namespace espalier

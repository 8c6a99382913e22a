#include "env/base/files.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <utility>

#include "env/base/error.h"

namespace espalier {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void ThrowErrno(const std::string& action, const fs::path& path) {
  const int code = errno;
  const bool disk_full = code == ENOSPC || code == EDQUOT;
  throw Error(disk_full ? ErrorKind::kResource : ErrorKind::kIo,
              Str("cannot ", action, " ", path, ": ", std::strerror(code)),
              disk_full ? "free some space and run the same command again" : "");
}

/// Owns a file descriptor.
class File {
 public:
  File(const fs::path& path, int flags, const char* action) : path_(path) {
    descriptor_ = ::open(path.c_str(), flags | O_CLOEXEC, 0666);
    if (descriptor_ < 0) ThrowErrno(action, path);
  }
  ~File() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  int descriptor() const { return descriptor_; }
  size_t Read(char* buffer, size_t size) const {
    for (;;) {
      const ssize_t count = ::read(descriptor_, buffer, size);
      if (count >= 0) return static_cast<size_t>(count);
      if (errno != EINTR) ThrowErrno("read", path_);
    }
  }
  void Write(std::string_view bytes) const {
    while (!bytes.empty()) {
      const ssize_t count = ::write(descriptor_, bytes.data(), bytes.size());
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) ThrowErrno("write", path_);
      bytes.remove_prefix(static_cast<size_t>(count));
    }
  }
  void Sync() const {
    if (::fsync(descriptor_) != 0) ThrowErrno("sync", path_);
  }
  void Close() {  // a network file system may report a failed write only here
    if (::close(std::exchange(descriptor_, -1)) != 0) ThrowErrno("close", path_);
  }

 private:
  fs::path path_;
  int descriptor_ = -1;
};

fs::path FolderOf(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

void SyncFolder(const fs::path& folder) {
  const File handle(folder, O_RDONLY | O_DIRECTORY, "open folder");
  // Some file systems cannot sync a folder and say EINVAL: the rename itself is still atomic.
  if (::fsync(handle.descriptor()) != 0 && errno != EINVAL) ThrowErrno("sync folder", folder);
}

void CreateFolder(const fs::path& folder) {
  std::error_code problem;
  fs::create_directories(folder, problem);
  if (problem) {
    errno = problem.value();
    ThrowErrno("create folder", folder);
  }
}

fs::path TemporaryFor(const fs::path& path) {
  static std::atomic<uint64_t> counter = 0;
  return FolderOf(path) /
         Str(".", path.filename().string(), ".", ::getpid(), ".", ++counter, ".tmp");
}

/// Calls `visit` with the file's bytes, piece by piece.
void ForEachPiece(const fs::path& path, const std::function<void(std::string_view)>& visit) {
  const File file(path, O_RDONLY, "open");
  std::string buffer(1 << 20, '\0');
  while (const size_t count = file.Read(buffer.data(), buffer.size()))
    visit(std::string_view(buffer).substr(0, count));
}

class Sha256 {
 public:
  Sha256() : context_(EVP_MD_CTX_new(), &EVP_MD_CTX_free) {
    ESPALIER_CHECK(context_ && EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1);
  }
  void Add(std::string_view bytes) {
    ESPALIER_CHECK(EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()) == 1);
  }
  std::string Finish() {
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int size = 0;
    ESPALIER_CHECK(EVP_DigestFinal_ex(context_.get(), digest, &size) == 1);
    std::string text;
    for (unsigned int i = 0; i < size; ++i) {
      text += "0123456789abcdef"[digest[i] >> 4];
      text += "0123456789abcdef"[digest[i] & 15];
    }
    return text;
  }

 private:
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_;
};

}  // namespace

std::string ReadFile(const fs::path& path, uint64_t max_bytes) {
  const File file(path, O_RDONLY, "open");
  struct stat status {};
  if (::fstat(file.descriptor(), &status) != 0) ThrowErrno("read", path);
  if (S_ISDIR(status.st_mode)) {
    errno = EISDIR;
    ThrowErrno("read", path);
  }
  const auto check_size = [&](uint64_t size) {
    if (max_bytes > 0 && size > max_bytes)
      throw Error(ErrorKind::kIo, Str("cannot read ", path, ": ", size, " bytes or more, at most ",
                                      max_bytes, " are allowed"));
  };
  check_size(static_cast<uint64_t>(status.st_size));
  // The size is only a guess: pipes say 0, and a file may grow meanwhile.
  std::string bytes(static_cast<size_t>(status.st_size) + 1, '\0');
  size_t used = 0;
  while (const size_t count = file.Read(bytes.data() + used, bytes.size() - used)) {
    used += count;
    check_size(used);
    if (used < bytes.size()) continue;
    size_t more = 2 * used + 4096;
    if (max_bytes > 0 && 2 * more > max_bytes) more = max_bytes + 1;
    std::string larger(more, '\0');
    std::copy_n(bytes.data(), used, larger.data());  // resize() would double what is allowed
    bytes = std::move(larger);
  }
  bytes.resize(used);
  return bytes;
}

void WriteFileAtomic(const fs::path& path, std::string_view bytes) {
  WriteFileAtomic(path, [&](const fs::path& temporary) {
    File file(temporary, O_WRONLY | O_CREAT | O_TRUNC, "create");
    file.Write(bytes);
    file.Close();
  });
}

void WriteFileAtomic(const fs::path& path, const std::function<void(const fs::path&)>& write) {
  CreateFolder(FolderOf(path));
  const fs::path temporary = TemporaryFor(path);
  try {
    write(temporary);
    // Opened again for the sync: `write` has closed its own handle, the dirty pages are the file's.
    File file(temporary, O_RDONLY, "open");
    file.Sync();
    file.Close();
    if (::rename(temporary.c_str(), path.c_str()) != 0) ThrowErrno("replace", path);
  } catch (...) {
    std::error_code ignored;  // the first error is the one to report
    fs::remove(temporary, ignored);
    throw;
  }
  SyncFolder(FolderOf(path));
}

void AppendLine(const fs::path& path, std::string_view line) {
  CreateFolder(FolderOf(path));
  File file(path, O_RDWR | O_CREAT | O_APPEND, "open");
  // After a torn last line (a crash in mid-write) the new one starts on its own.
  std::string text;
  char last = '\n';
  if (::lseek(file.descriptor(), -1, SEEK_END) >= 0) file.Read(&last, 1);
  if (last != '\n') text += '\n';
  text.append(line);
  text += '\n';
  file.Write(text);  // one write call: lines of several writers do not mix
  file.Sync();
  file.Close();
}

std::string Sha256Hex(std::string_view bytes) {
  Sha256 hash;
  hash.Add(bytes);
  return hash.Finish();
}

std::string Sha256OfFile(const fs::path& path) {
  Sha256 hash;
  ForEachPiece(path, [&](std::string_view piece) { hash.Add(piece); });
  return hash.Finish();
}

}  // namespace espalier

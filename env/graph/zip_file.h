#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace espalier {

/// A zip file with one root folder, as PyTorch writes its archives, of an author nobody vouches
/// for.
///
/// The whole directory is checked before anything is read: entries lie inside the file and do not
/// overlap; their names are relative, unique and below the root folder; together they unpack to at
/// most kUnpackFactor times the file plus kUnpackExtra bytes. Every read verifies the checksum.
/// Stored and deflated entries, zip64; no encryption, no archives of several files.
///
/// Errors   kIo when there is no such file; else kModel naming file and entry or byte.
/// Memory   the directory; Read fills the caller's buffer and no other.
class ZipFile {
 public:
  static constexpr uint64_t kUnpackFactor = 4;
  static constexpr uint64_t kUnpackExtra = 1 << 20;

  explicit ZipFile(std::filesystem::path path);
  /// Of an archive inside of another: `name` stands in errors; the bytes must outlive the object.
  ZipFile(const std::string& name, std::string_view bytes);
  /// Without the root folder, in the directory's order.
  const std::vector<std::string>& names() const { return names_; }
  bool Has(const std::string& name) const { return entries_.contains(name); }
  uint64_t Size(const std::string& name) const;  ///< bytes when unpacked
  void Read(const std::string& name, void* to);  ///< Size(name) bytes

 private:
  struct Entry {
    uint64_t begin = 0;   // of the local header
    uint64_t data = 0;    // of the packed bytes
    uint64_t packed = 0;  // bytes in the file
    uint64_t size = 0;    // bytes when unpacked
    uint32_t checksum = 0;
    bool deflated = false;
  };
  struct Directory {
    uint64_t begin = 0, size = 0, count = 0;
  };

  template <typename... Parts>
  [[noreturn]] void Fail(const Parts&... parts) const;
  template <typename... Parts>
  [[noreturn]] void FailAt(const std::string& name, const Parts&... parts) const;
  const Entry& Find(const std::string& name) const;
  std::string BytesAt(uint64_t offset, uint64_t count);
  void ReadAt(uint64_t offset, void* to, uint64_t count);
  Directory FindDirectory();
  void ReadDirectory(const Directory& directory);
  void AddEntry(const std::string& record, const std::string& path, const std::string& extra);
  void CheckName(const std::string& path) const;
  void FindData(const std::string& path, uint64_t limit, Entry& entry);
  void CheckSpace() const;
  void Inflate(const std::string& name, const Entry& entry, void* to);

  std::filesystem::path path_;
  std::ifstream in_;  // unless it is read from memory
  std::string_view bytes_;
  uint64_t file_size_ = 0;
  std::string root_;  // with its slash
  std::vector<std::string> names_;
  std::map<std::string, Entry> entries_;  // by name without the root
};

}  // namespace espalier

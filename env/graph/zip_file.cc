#include "env/graph/zip_file.h"

#include <zlib.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <limits>

#include "env/base/error.h"

static_assert(std::endian::native == std::endian::little, "the file format is little-endian");

namespace espalier {
namespace {

// Sizes and marks of the format's records (APPNOTE 4.3).
constexpr uint64_t kEndSize = 22, kEnd64Size = 56, kLocatorSize = 20;
constexpr uint64_t kRecordSize = 46, kLocalSize = 30;
constexpr uint32_t kEndMark = 0x06054b50, kEnd64Mark = 0x06064b50, kLocatorMark = 0x07064b50;
constexpr uint32_t kRecordMark = 0x02014b50, kLocalMark = 0x04034b50;
constexpr uint64_t kLongestComment = 0xffff;
constexpr uint32_t kInExtra = 0xffffffff;  // "the zip64 field has the number"
constexpr uint16_t kZip64Field = 1;
constexpr uint16_t kEncrypted = 1 << 0 | 1 << 6 | 1 << 13;  // general purpose flags
constexpr uint16_t kStored = 0, kDeflated = 8;
constexpr size_t kLongestName = 512;  // LibTorch's own limit

/// The little-endian number at `offset`, which the caller has checked to be inside.
template <typename T>
T Number(const std::string& bytes, size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

}  // namespace

template <typename... Parts>
void ZipFile::Fail(const Parts&... parts) const {
  throw Error(ErrorKind::kModel, Str("'", path_.string(), "' is no readable archive: ", parts...));
}

template <typename... Parts>
void ZipFile::FailAt(const std::string& name, const Parts&... parts) const {
  throw Error(ErrorKind::kModel, Str("'", path_.string(), "', entry ", name, ": ", parts...));
}

ZipFile::ZipFile(std::filesystem::path path)
    : path_(std::move(path)), in_(path_, std::ios::binary) {
  std::error_code failed;
  file_size_ = std::filesystem::file_size(path_, failed);
  if (!in_ || failed)
    throw Error(ErrorKind::kIo, Str("cannot open '", path_.string(),
                                    "': ", failed ? failed.message() : std::strerror(errno)));
  ReadDirectory(FindDirectory());
  CheckSpace();
}

ZipFile::ZipFile(const std::string& name, std::string_view bytes)
    : path_(name), bytes_(bytes), file_size_(bytes.size()) {
  ReadDirectory(FindDirectory());
  CheckSpace();
}

uint64_t ZipFile::Size(const std::string& name) const { return Find(name).size; }

const ZipFile::Entry& ZipFile::Find(const std::string& name) const {
  const auto found = entries_.find(name);
  if (found == entries_.end()) FailAt(name, "it is missing");
  return found->second;
}

void ZipFile::ReadAt(uint64_t offset, void* to, uint64_t count) {
  if (!bytes_.empty()) {
    if (offset > bytes_.size() || count > bytes_.size() - offset)
      Fail("it has no ", count, " bytes at byte ", offset);
    std::memcpy(to, bytes_.data() + offset, count);
    return;
  }
  in_.seekg(static_cast<std::streamoff>(offset));
  in_.read(static_cast<char*>(to), static_cast<std::streamsize>(count));
  if (!in_ || static_cast<uint64_t>(in_.gcount()) != count)
    Fail("reading ", count, " bytes at byte ", offset, " failed");
}

/// Callers have compared `count` with the size of the file.
std::string ZipFile::BytesAt(uint64_t offset, uint64_t count) {
  std::string bytes(count, '\0');
  ReadAt(offset, bytes.data(), count);
  return bytes;
}

ZipFile::Directory ZipFile::FindDirectory() {
  if (file_size_ < kEndSize)
    Fail("it has ", file_size_, " bytes, the end record of a zip file alone takes ", kEndSize);
  const uint64_t tail_size = std::min(file_size_, kEndSize + kLongestComment);
  const std::string tail = BytesAt(file_size_ - tail_size, tail_size);
  uint64_t at = tail_size - kEndSize;  // inside the tail; the comment behind it fills the file
  while (Number<uint32_t>(tail, at) != kEndMark ||
         at + kEndSize + Number<uint16_t>(tail, at + 20) != tail_size)
    if (at-- == 0) Fail("it has no end record in its last ", tail_size, " bytes");
  if (Number<uint32_t>(tail, at + 4) != 0) Fail("it is one of several files");
  Directory directory{Number<uint32_t>(tail, at + 16), Number<uint32_t>(tail, at + 12),
                      Number<uint16_t>(tail, at + 10)};
  uint64_t limit = file_size_ - tail_size + at;
  if (limit >= kLocatorSize) {
    const std::string locator = BytesAt(limit - kLocatorSize, kLocatorSize);
    if (Number<uint32_t>(locator, 0) == kLocatorMark) {
      const auto end = Number<uint64_t>(locator, 8);
      if (limit < kLocatorSize + kEnd64Size || end > limit - kLocatorSize - kEnd64Size)
        Fail("its zip64 end record is said to begin at byte ", end, ", the file has ", file_size_);
      const std::string record = BytesAt(end, kEnd64Size);
      if (Number<uint32_t>(record, 0) != kEnd64Mark)
        Fail("no zip64 end record begins at byte ", end);
      directory = {Number<uint64_t>(record, 48), Number<uint64_t>(record, 40),
                   Number<uint64_t>(record, 32)};
      limit = end;
    }
  }
  if (directory.begin > limit || directory.size > limit - directory.begin)
    Fail("its directory is said to begin at byte ", directory.begin, " and to have ",
         directory.size, " bytes, it must end before byte ", limit);
  return directory;
}

void ZipFile::ReadDirectory(const Directory& directory) {
  const std::string bytes = BytesAt(directory.begin, directory.size);
  size_t at = 0;
  for (uint64_t i = 0; i < directory.count; ++i) {
    const uint64_t place = directory.begin + at;
    if (bytes.size() - at < kRecordSize || Number<uint32_t>(bytes, at) != kRecordMark)
      Fail("no directory record begins at byte ", place, " (entry ", i, " of ", directory.count,
           ")");
    const size_t name_size = Number<uint16_t>(bytes, at + 28);
    const size_t extra_size = Number<uint16_t>(bytes, at + 30);
    const size_t size =
        kRecordSize + name_size + extra_size + Number<uint16_t>(bytes, at + 32);  // and comment
    if (bytes.size() - at < size)
      Fail("the directory record at byte ", place, " reaches beyond the directory");
    AddEntry(bytes.substr(at, kRecordSize), bytes.substr(at + kRecordSize, name_size),
             bytes.substr(at + kRecordSize + name_size, extra_size));
    at += size;
  }
  if (at != bytes.size())
    Fail("its directory has ", bytes.size(), " bytes, ", directory.count, " records take ", at);
  if (names_.empty()) Fail("it holds no files");
  for (const std::string& name : names_) FindData(root_ + name, directory.begin, entries_[name]);
}

void ZipFile::AddEntry(const std::string& record, const std::string& path,
                       const std::string& extra) {
  if (root_.empty()) root_ = path.substr(0, path.find('/')) + "/";
  CheckName(path);
  Entry entry;
  entry.checksum = Number<uint32_t>(record, 16);
  entry.packed = Number<uint32_t>(record, 20);
  entry.size = Number<uint32_t>(record, 24);
  entry.begin = Number<uint32_t>(record, 42);
  for (size_t at = 0; at + 4 <= extra.size();) {
    const size_t end = at + 4 + Number<uint16_t>(extra, at + 2);
    if (end > extra.size()) FailAt(path, "its extra fields do not fit their size");
    if (Number<uint16_t>(extra, at) == kZip64Field) {
      size_t next = at + 4;
      for (uint64_t* value : {&entry.size, &entry.packed, &entry.begin}) {
        if (*value != kInExtra) continue;
        if (next + 8 > end) FailAt(path, "its zip64 field is too short");
        *value = Number<uint64_t>(extra, next);
        next += 8;
      }
    }
    at = end;
  }
  const auto flags = Number<uint16_t>(record, 8), method = Number<uint16_t>(record, 10);
  if (flags & kEncrypted) FailAt(path, "it is encrypted");
  if (method != kStored && method != kDeflated)
    FailAt(path, "its compression method ", method, " is not supported");
  entry.deflated = method == kDeflated;
  if (!entry.deflated && entry.packed != entry.size)
    FailAt(path, "it is stored, but claims ", entry.size, " bytes and takes ", entry.packed);
  if (path.ends_with('/')) {  // a folder
    if (entry.size != 0) FailAt(path, "a folder with content");
    return;
  }
  const std::string name = path.substr(root_.size());
  if (!entries_.emplace(name, entry).second) FailAt(name, "it is there twice");
  names_.push_back(name);
}

/// No name may lead anywhere but below the root folder, on any system.
void ZipFile::CheckName(const std::string& path) const {
  const auto printable = [](char c) { return static_cast<unsigned char>(c) >= 0x20 && c != 0x7f; };
  const auto bad = [&](const char* why) { Fail("it has an entry whose name ", why); };
  if (path.empty() || path.size() > kLongestName) bad("is empty or longer than 512 bytes");
  if (!std::all_of(path.begin(), path.end(), printable)) bad("holds control characters");
  if (path.find('\\') != std::string::npos) FailAt(path, "its name holds a backslash");
  if (root_ == "/" || !path.starts_with(root_)) FailAt(path, "it lies outside of '", root_, "'");
  for (size_t begin = 0; begin < path.size();) {
    const size_t end = std::min(path.find('/', begin), path.size());
    const std::string part = path.substr(begin, end - begin);
    if (part.empty() || part == "." || part == "..")
      FailAt(path, "its name has the part '", part, "'");
    begin = end + 1;
  }
}

/// The local header says where the data begin; it must speak about the same entry.
void ZipFile::FindData(const std::string& path, uint64_t limit, Entry& entry) {
  const auto fail = [&](const auto&... parts) {
    FailAt(path.substr(root_.size()), "at byte ", entry.begin, ": ", parts...);
  };
  if (limit < kLocalSize + path.size() || entry.begin > limit - kLocalSize - path.size())
    fail("its header would reach into the directory, which begins at byte ", limit);
  const std::string header = BytesAt(entry.begin, kLocalSize + path.size());
  if (Number<uint32_t>(header, 0) != kLocalMark) fail("there is no header");
  if (Number<uint16_t>(header, 26) != path.size() || header.substr(kLocalSize) != path)
    fail("its header has another name than the directory");
  entry.data = entry.begin + kLocalSize + path.size() + Number<uint16_t>(header, 28);
  if (entry.data > limit || entry.packed > limit - entry.data)
    fail("its ", entry.packed, " bytes would reach into the directory, which begins at byte ",
         limit);
}

/// Bombs: what unpacks to far more than the file, by compression or by sharing bytes.
void ZipFile::CheckSpace() const {
  std::vector<std::pair<uint64_t, std::string>> order;
  uint64_t unpacked = 0;
  for (const auto& [name, entry] : entries_) {
    order.emplace_back(entry.begin, name);
    if (__builtin_add_overflow(unpacked, entry.size, &unpacked)) FailAt(name, "its size overflows");
  }
  const uint64_t allowed = kUnpackFactor * file_size_ + kUnpackExtra;
  if (unpacked > allowed)
    Fail("it claims to unpack to ", unpacked, " bytes; it has ", file_size_, ", at most ", allowed,
         " are allowed");
  std::sort(order.begin(), order.end());
  uint64_t end = 0;
  for (const auto& [begin, name] : order) {
    if (begin < end) FailAt(name, "at byte ", begin, ": it overlaps the entry before it");
    const Entry& entry = entries_.at(name);
    end = entry.data + entry.packed;
  }
}

void ZipFile::Read(const std::string& name, void* to) {
  const Entry& entry = Find(name);
  if (entry.deflated)
    Inflate(name, entry, to);
  else if (entry.size > 0)
    ReadAt(entry.data, to, entry.size);
  const auto* bytes = static_cast<const Bytef*>(to);
  const auto checksum = static_cast<uint32_t>(crc32_z(crc32_z(0, nullptr, 0), bytes, entry.size));
  if (checksum != entry.checksum)
    FailAt(name, "its checksum is ", checksum, ", the directory says ", entry.checksum,
           ": the file is damaged");
}

void ZipFile::Inflate(const std::string& name, const Entry& entry, void* to) {
  constexpr uint64_t kPiece = 1 << 16;
  constexpr uint64_t kMostOut = std::numeric_limits<uInt>::max();
  struct Stream {
    z_stream z{};
    ~Stream() { inflateEnd(&z); }
  } stream;
  z_stream& z = stream.z;
  if (inflateInit2(&z, -MAX_WBITS) != Z_OK)  // negative: no zlib header
    throw Error(ErrorKind::kResource, "out of memory");
  std::string piece(std::min(kPiece, entry.packed), '\0');
  Bytef none = 0;  // zlib wants a place to write even when nothing is expected
  z.next_out = entry.size > 0 ? static_cast<Bytef*>(to) : &none;
  uint64_t read = 0, left = entry.size;
  int status = Z_OK;
  while (status == Z_OK) {
    if (z.avail_in == 0 && read < entry.packed) {
      const uint64_t count = std::min(kPiece, entry.packed - read);
      ReadAt(entry.data + read, piece.data(), count);
      read += count;
      z.next_in = reinterpret_cast<Bytef*>(piece.data());
      z.avail_in = static_cast<uInt>(count);
    }
    const auto room = static_cast<uInt>(std::min(left, kMostOut));
    z.avail_out = room;
    status = inflate(&z, Z_NO_FLUSH);
    left -= room - z.avail_out;
  }
  if (status != Z_STREAM_END || left != 0 || read != entry.packed || z.avail_in != 0)
    FailAt(name, "its compressed bytes are damaged, or do not unpack to the ", entry.size,
           " bytes the directory says");
}

}  // namespace espalier

#include <ATen/ATen.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "env/base/error.h"
#include "env/base/files.h"
#include "env/graph/checked_json.h"
#include "env/graph/io.h"

static_assert(std::endian::native == std::endian::little, "the file format is little-endian");

namespace espalier {
namespace {

using nlohmann::json;

constexpr uint64_t kMaxHeader = 100'000'000;  // the limit of the reference implementation
constexpr uint64_t kPrefix = 8;               // bytes of the header length

const std::vector<std::pair<std::string, at::ScalarType>>& Dtypes() {
  static const std::vector<std::pair<std::string, at::ScalarType>> table = {
      {"BOOL", at::kBool},          {"U8", at::kByte},    {"I8", at::kChar},
      {"I16", at::kShort},          {"U16", at::kUInt16}, {"F16", at::kHalf},
      {"BF16", at::kBFloat16},      {"I32", at::kInt},    {"U32", at::kUInt32},
      {"F32", at::kFloat},          {"F64", at::kDouble}, {"C64", at::kComplexFloat},
      {"I64", at::kLong},           {"U64", at::kUInt64}, {"F8_E4M3", at::kFloat8_e4m3fn},
      {"F8_E5M2", at::kFloat8_e5m2}};
  return table;
}

struct Entry {
  std::string name;
  at::ScalarType dtype;
  std::vector<int64_t> sizes;
  uint64_t begin;  // relative to the data section
  uint64_t end;
};

/// One file being read: knows its name for the messages.
class Reader {
 public:
  explicit Reader(const std::filesystem::path& path) : path_(path), in_(path, std::ios::binary) {
    std::error_code failed;
    file_size_ = std::filesystem::file_size(path, failed);
    if (!in_ || failed)
      throw Error(ErrorKind::kIo, Str("cannot open '", path.string(), "': ", std::strerror(errno)));
  }

  TensorFile Read() {
    const json header = ReadHeader();
    TensorFile file;
    std::vector<Entry> entries;
    for (const auto& [name, item] : header.items()) {
      if (name == "__metadata__")
        ReadMetadata(item, file.metadata);
      else
        entries.push_back(ReadEntry(name, item));
    }
    CheckLayout(entries);
    for (const Entry& entry : entries) file.tensors.emplace_back(entry.name, ReadTensor(entry));
    return file;
  }

 private:
  template <typename... Parts>
  [[noreturn]] void Fail(const Parts&... parts) const {
    throw Error(ErrorKind::kModel,
                Str("'", path_.string(), "' is not a valid safetensors file: ", parts...));
  }

  void ReadBytes(uint64_t offset, void* to, uint64_t count) {
    in_.seekg(static_cast<std::streamoff>(offset));
    in_.read(static_cast<char*>(to), static_cast<std::streamsize>(count));
    if (!in_ || static_cast<uint64_t>(in_.gcount()) != count)
      Fail("reading ", count, " bytes at byte ", offset, " failed");
  }

  json ReadHeader() {
    if (file_size_ < kPrefix)
      Fail("it has ", file_size_, " bytes, the header length alone takes 8");
    uint64_t length = 0;
    ReadBytes(0, &length, kPrefix);
    if (length > kMaxHeader)
      Fail("its header claims ", length, " bytes at byte 0, at most ", kMaxHeader, " are allowed");
    if (length > file_size_ - kPrefix)
      Fail("its header claims ", length, " bytes at byte 0, the file has ", file_size_, " in all");
    data_start_ = kPrefix + length;
    std::string text(length, '\0');
    ReadBytes(kPrefix, text.data(), length);
    if (text.empty() || text.front() != '{') Fail("its header does not start with '{' at byte 8");
    try {
      return ParseCheckedJson(text, /*max_depth=*/4);
    } catch (const Error& error) {
      Fail("its header (from byte 8) is broken: ", error.message());
    }
  }

  void ReadMetadata(const json& item, std::map<std::string, std::string>& metadata) const {
    if (!item.is_object()) Fail("__metadata__ is not an object");
    for (const auto& [key, value] : item.items()) {
      if (!value.is_string()) Fail("__metadata__ '", key, "' is not a string");
      metadata[key] = value.get<std::string>();
    }
  }

  Entry ReadEntry(const std::string& name, const json& item) const {
    if (!item.is_object()) Fail("tensor '", name, "': its entry is not an object");
    for (const char* key : {"dtype", "shape", "data_offsets"})
      if (!item.contains(key)) Fail("tensor '", name, "': '", key, "' is missing");
    if (item.size() != 3) Fail("tensor '", name, "': its entry has unknown keys");
    Entry entry{name, ReadDtype(name, item["dtype"]), {}, 0, 0};
    const json& offsets = item["data_offsets"];
    if (!offsets.is_array() || offsets.size() != 2 || !offsets[0].is_number_unsigned() ||
        !offsets[1].is_number_unsigned())
      Fail("tensor '", name, "': data_offsets must be two whole numbers");
    entry.begin = offsets[0].get<uint64_t>();
    entry.end = offsets[1].get<uint64_t>();
    const uint64_t available = file_size_ - data_start_;
    if (entry.begin > entry.end)
      Fail("tensor '", name, "': it ends at byte ", entry.end, " before its begin ", entry.begin);
    if (entry.end > available)
      Fail("tensor '", name, "': its data ends at byte ", entry.end,
           " of the data section, which has ", available, " (truncated?)");
    ReadShape(item["shape"], entry);
    return entry;
  }

  at::ScalarType ReadDtype(const std::string& name, const json& item) const {
    std::vector<std::string> known;
    if (!item.is_string()) Fail("tensor '", name, "': dtype is not a string");
    for (const auto& [text, dtype] : Dtypes()) {
      if (text == item.get<std::string>()) return dtype;
      known.push_back(text);
    }
    throw Error(ErrorKind::kModel,
                Str("'", path_.string(), "': tensor '", name, "' has the unknown dtype '",
                    item.get<std::string>(), "'"),
                SuggestName(item.get<std::string>(), known));
  }

  void ReadShape(const json& shape, Entry& entry) const {
    if (!shape.is_array()) Fail("tensor '", entry.name, "': shape is not a list");
    if (shape.size() > 64) Fail("tensor '", entry.name, "': more than 64 axes");
    // Zero sizes count as one here, so that strides cannot overflow either.
    int64_t bytes = static_cast<int64_t>(c10::elementSize(entry.dtype));
    bool empty = false;
    for (const json& size : shape) {
      if (!size.is_number_unsigned() || size.get<uint64_t>() > INT64_MAX)
        Fail("tensor '", entry.name, "': shape must be whole numbers >= 0");
      entry.sizes.push_back(size.get<int64_t>());
      empty = empty || entry.sizes.back() == 0;
      if (__builtin_mul_overflow(bytes, std::max<int64_t>(entry.sizes.back(), 1), &bytes))
        Fail("tensor '", entry.name, "': its shape overflows");
    }
    const uint64_t needed = empty ? 0 : static_cast<uint64_t>(bytes);
    if (entry.end - entry.begin != needed)
      Fail("tensor '", entry.name, "': shape ", at::IntArrayRef(entry.sizes), " of ",
           c10::toString(entry.dtype), " takes ", needed, " bytes, data_offsets [", entry.begin,
           ", ", entry.end, ") hold ", entry.end - entry.begin);
  }

  /// The tensors must tile the data section: no overlap, no hole, nothing behind them.
  void CheckLayout(std::vector<Entry>& entries) const {
    std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
      return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
    });
    uint64_t at = 0;
    for (const Entry& entry : entries) {
      if (entry.begin < at)
        Fail("tensor '", entry.name, "' overlaps the one before it: it begins at byte ",
             entry.begin, " of the data section, that one ends at ", at);
      if (entry.begin > at)
        Fail("bytes ", at, " to ", entry.begin,
             " of the data section belong to no tensor (before '", entry.name, "')");
      at = entry.end;
    }
    if (at != file_size_ - data_start_)
      Fail("bytes ", at, " to ", file_size_ - data_start_,
           " of the data section belong to no tensor");
  }

  Tensor ReadTensor(const Entry& entry) {
    Tensor tensor = at::empty(entry.sizes, at::TensorOptions(entry.dtype));
    const uint64_t count = entry.end - entry.begin;
    if (count == 0) return tensor;
    auto* bytes = static_cast<unsigned char*>(tensor.mutable_data_ptr());
    ReadBytes(data_start_ + entry.begin, bytes, count);
    if (entry.dtype == at::kBool)
      for (uint64_t i = 0; i < count; ++i)
        if (bytes[i] > 1)
          Fail("tensor '", entry.name, "': byte ", data_start_ + entry.begin + i,
               " is no boolean (", int{bytes[i]}, ")");
    return tensor;
  }

  std::filesystem::path path_;
  std::ifstream in_;
  uint64_t file_size_ = 0;
  uint64_t data_start_ = 0;
};

std::string DtypeName(const std::string& tensor, at::ScalarType dtype) {
  for (const auto& [name, known] : Dtypes())
    if (known == dtype) return name;
  throw Error(ErrorKind::kModel, Str("tensor '", tensor, "' has dtype ", c10::toString(dtype),
                                     ", which safetensors cannot hold"));
}

}  // namespace

TensorFile ReadSafetensors(const std::filesystem::path& path) { return Reader(path).Read(); }

void WriteSafetensors(const std::filesystem::path& path, const TensorFile& file,
                      const TensorLoader& load) {
  // Widest elements first, so that every tensor is aligned without holes.
  std::vector<std::pair<std::string, Tensor>> tensors = file.tensors;
  std::stable_sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) {
    return a.second.element_size() > b.second.element_size();
  });
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!file.metadata.empty()) header["__metadata__"] = file.metadata;
  uint64_t offset = 0;
  for (const auto& [name, tensor] : tensors) {
    if (name == "__metadata__" || header.contains(name))
      throw Error(ErrorKind::kModel,
                  Str("'", path.string(), "': the tensor name '", name, "' is taken"));
    const uint64_t end = offset + tensor.nbytes();
    header[name] = {{"dtype", DtypeName(name, tensor.scalar_type())},
                    {"shape", tensor.sizes().vec()},
                    {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const json::exception& error) {  // a name that is not UTF-8
    throw Error(ErrorKind::kModel, Str("'", path.string(), "': ", error.what()));
  }
  text.resize((text.size() + 7) / 8 * 8, ' ');
  WriteFileAtomic(path, [&](const std::filesystem::path& temporary) {
    std::ofstream out(temporary, std::ios::binary | std::ios::trunc);
    const auto put = [&](const void* data, size_t count) {
      out.write(static_cast<const char*>(data), static_cast<std::streamsize>(count));
    };
    const uint64_t length = text.size();
    put(&length, kPrefix);
    put(text.data(), text.size());
    for (const auto& [name, tensor] : tensors) {
      const Tensor plain = (load ? load(name) : tensor).detach().cpu().contiguous();
      put(plain.const_data_ptr(), plain.nbytes());
    }
    out.close();
    if (!out)
      throw Error(errno == ENOSPC ? ErrorKind::kResource : ErrorKind::kIo,
                  Str("cannot write '", path.string(), "': ", std::strerror(errno)));
  });
}

}  // namespace espalier

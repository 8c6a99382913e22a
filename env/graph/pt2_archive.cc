#include "env/graph/pt2_archive.h"

#include <ATen/ATen.h>
#include <caffe2/serialize/inline_container.h>

#include <algorithm>

#include "env/graph/checked_json.h"
#include "env/graph/pt2_schema.h"

namespace espalier::pt2 {
namespace {

using nlohmann::json;

constexpr uint64_t kUnpackFactor = 4;  // entries may unpack to this many times the file ...
constexpr uint64_t kUnpackExtra = 16ull << 20;  // ... plus this
constexpr int kJsonDepth = 64;

/// Sizes, strides and offset as the config has them.
struct View {
  at::ScalarType dtype = at::kFloat;
  std::vector<int64_t> sizes, strides;
  int64_t offset = 0;
};

int64_t PlainInt(const json& size) {
  const json& value = size.at("as_int");
  if (!value.is_number_unsigned() || value.get<uint64_t>() > INT64_MAX)
    throw Error(ErrorKind::kModel, Str("a whole number >= 0 is expected, not ", value.dump()));
  return value.get<int64_t>();
}

View ViewOf(const json& meta) {
  View view;
  const int64_t number = meta.at("dtype").get<int64_t>();
  const auto dtype = DtypeOf(number);
  if (!dtype) throw Error(ErrorKind::kModel, Str("its dtype ", number, " is not supported"));
  view.dtype = *dtype;
  if (!LayoutOf(meta.at("layout").get<int64_t>()))
    throw Error(ErrorKind::kModel, Str("its layout ", meta.at("layout").dump(), " is not strided"));
  for (const json& size : meta.at("sizes")) view.sizes.push_back(PlainInt(size));
  for (const json& stride : meta.at("strides")) view.strides.push_back(PlainInt(stride));
  view.offset = PlainInt(meta.at("storage_offset"));
  return view;
}

/// Throws unless every element lies inside `bytes` and no more is claimed than is there.
void CheckView(const View& view, int64_t bytes) {
  const auto element = static_cast<int64_t>(c10::elementSize(view.dtype));
  if (view.sizes.size() != view.strides.size() || view.sizes.size() > 64)
    throw Error(ErrorKind::kModel,
                Str("it has ", view.sizes.size(), " sizes and ", view.strides.size(), " strides"));
  int64_t count = 1, nonzero = 1, last = view.offset;
  for (size_t axis = 0; axis < view.sizes.size(); ++axis) {
    int64_t reach = 0;
    if (__builtin_mul_overflow(nonzero, std::max<int64_t>(view.sizes[axis], 1), &nonzero) ||
        __builtin_mul_overflow(std::max<int64_t>(view.sizes[axis] - 1, 0), view.strides[axis],
                               &reach) ||
        __builtin_add_overflow(last, reach, &last))
      throw Error(ErrorKind::kModel, Str("sizes ", at::IntArrayRef(view.sizes), " with strides ",
                                         at::IntArrayRef(view.strides), " overflow"));
    count *= view.sizes[axis];
  }
  const int64_t available = bytes / element;
  if (bytes % element != 0)
    throw Error(ErrorKind::kModel,
                Str("its record has ", bytes, " bytes, not a multiple of ", element));
  if (count > 0 ? last >= available : view.offset > available)
    throw Error(ErrorKind::kModel, Str("sizes ", at::IntArrayRef(view.sizes), ", strides ",
                                       at::IntArrayRef(view.strides), ", offset ", view.offset,
                                       " reach element ", last, ", its record has ", available));
  if (count > available)
    throw Error(ErrorKind::kModel, Str("sizes ", at::IntArrayRef(view.sizes),
                                       " overlap: its record has ", available, " elements"));
}

void CheckBooleans(const Tensor& bytes) {
  if (bytes.numel() > 0 && bytes.max().item<uint8_t>() > 1)
    throw Error(ErrorKind::kModel, "its record holds bytes that are no booleans");
}

}  // namespace

Archive::Archive(const std::filesystem::path& path) : path_(path) {
  std::error_code failed;
  const uint64_t file_size = std::filesystem::file_size(path, failed);
  if (failed)
    throw Error(ErrorKind::kIo, Str("cannot open '", path.string(), "': ", failed.message()));
  uint64_t unpacked = 0;
  try {
    reader_ = std::make_unique<caffe2::serialize::PyTorchStreamReader>(path.string());
    entries_ = reader_->getAllRecords();
    for (const std::string& entry : entries_) unpacked += reader_->getRecordSize(entry);
  } catch (const c10::Error& error) {
    throw Error(
        ErrorKind::kModel,
        Str("'", path.string(), "' is no readable .pt2 archive: ", error.what_without_backtrace()));
  }
  if (unpacked > kUnpackFactor * file_size + kUnpackExtra)
    throw Error(ErrorKind::kModel, Str("'", path.string(), "' claims to unpack to ", unpacked,
                                       " bytes, it has ", file_size));
}

Archive::~Archive() = default;

bool Archive::Has(const std::string& entry) const {
  return std::find(entries_.begin(), entries_.end(), entry) != entries_.end();
}

std::string Archive::Place(const std::string& entry) const {
  return Str("'", path_.string(), "', entry ", entry);
}

Tensor Archive::Bytes(const std::string& entry) {
  if (!Has(entry)) Fail(entry, "it is missing");
  try {
    const auto size = static_cast<int64_t>(reader_->getRecordSize(entry));
    Tensor bytes = at::empty({size}, at::kByte);
    if (size > 0) reader_->getRecord(entry, bytes.mutable_data_ptr(), static_cast<size_t>(size));
    return bytes;
  } catch (const c10::OutOfMemoryError&) {
    throw;
  } catch (const c10::Error& error) {
    Fail(entry, "it cannot be read: ", error.what_without_backtrace());
  }
}

std::string Archive::Text(const std::string& entry) {
  const Tensor bytes = Bytes(entry);
  return {static_cast<const char*>(bytes.const_data_ptr()), static_cast<size_t>(bytes.numel())};
}

std::vector<StoredTensor> ReadTensors(Archive& archive, const std::string& config_entry,
                                      const std::string& folder) {
  std::vector<StoredTensor> tensors;
  std::map<std::string, Tensor> records;       // path_name -> bytes
  std::map<std::string, std::string> by_view;  // record and view -> first name
  // Ordered: the file's order is the state dict's.
  nlohmann::ordered_json config;
  try {
    const std::string text = archive.Text(config_entry);
    ParseCheckedJson(text, kJsonDepth);
    config = nlohmann::ordered_json::parse(text);
    if (!config.at("config").is_object()) archive.Fail(config_entry, "'config' is no object");
  } catch (const nlohmann::json::exception& error) {
    archive.Fail(config_entry, error.what());
  } catch (const Error& error) {
    archive.Fail(config_entry, error.message());
  }
  for (const auto& [name, raw] : config["config"].items()) {
    const std::string where = Str("tensor '", name, "': ");
    try {
      const json item = raw;
      const auto path_name = item.at("path_name").get<std::string>();
      if (item.at("use_pickle").get<bool>())
        archive.Fail(config_entry, where, "it is stored as a pickle (", path_name,
                     "), which is not opened; tensor subclasses are not supported");
      const json& meta = item.at("tensor_meta");
      const View view = ViewOf(meta);
      if (!records.contains(path_name)) records[path_name] = archive.Bytes(folder + path_name);
      const Tensor& bytes = records[path_name];
      CheckView(view, bytes.numel());
      if (view.dtype == at::kBool) CheckBooleans(bytes);
      const std::string key =
          Str(path_name, '|', int{static_cast<int8_t>(view.dtype)}, '|', view.offset,
              at::IntArrayRef(view.sizes), at::IntArrayRef(view.strides));
      const auto [first, fresh] = by_view.emplace(key, name);
      Tensor tensor = at::empty({0}, at::TensorOptions(view.dtype))
                          .set_(bytes.storage(), view.offset, view.sizes, view.strides);
      tensors.push_back(
          {name, std::move(tensor), item.at("is_param").get<bool>(), fresh ? "" : first->second});
    } catch (const json::exception& error) {
      archive.Fail(config_entry, where, error.what());
    } catch (const Error& error) {
      if (error.message().find(config_entry) != std::string::npos) throw;
      archive.Fail(config_entry, where, error.message());
    }
  }
  return tensors;
}

}  // namespace espalier::pt2

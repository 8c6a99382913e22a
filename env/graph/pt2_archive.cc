#include "env/graph/pt2_archive.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <set>

#include "env/graph/checked_json.h"
#include "env/graph/checked_view.h"
#include "env/graph/pt2_schema.h"
#include "env/graph/torch_pickle.h"

namespace espalier::pt2 {
namespace {

using nlohmann::json;

constexpr size_t kMostAxes = 64;

/// Sizes, strides and offset as the config has them.
struct View {
  at::ScalarType dtype = at::kFloat;
  std::vector<int64_t> sizes, strides;
  int64_t offset = 0;
};

int64_t PlainInt(const json& size) {
  const int64_t value = JsonMember(size, "as_int", IntOf);
  if (value < 0) throw Error(ErrorKind::kModel, Str("a size of ", value, ", it must be >= 0"));
  return value;
}

std::vector<int64_t> PlainInts(const json& list) {
  if (!list.is_array()) throw Error(ErrorKind::kModel, "it is no list");
  if (list.size() > kMostAxes)
    throw Error(ErrorKind::kModel, Str(list.size(), " axes, at most ", kMostAxes, " are allowed"));
  std::vector<int64_t> values;
  for (const json& item : list) values.push_back(PlainInt(item));
  return values;
}

View ViewOf(const json& meta) {
  View view;
  const int64_t number = JsonMember(meta, "dtype", IntOf);
  const auto dtype = DtypeOf(number);
  if (!dtype) throw Error(ErrorKind::kModel, Str("its dtype ", number, " is not supported"));
  view.dtype = *dtype;
  const int64_t layout = JsonMember(meta, "layout", IntOf);
  if (!LayoutOf(layout))
    throw Error(ErrorKind::kModel, Str("its layout ", layout, " is not strided"));
  view.sizes = JsonMember(meta, "sizes", PlainInts);
  view.strides = JsonMember(meta, "strides", PlainInts);
  view.offset = JsonMember(meta, "storage_offset", PlainInt);
  return view;
}

void CheckView(const View& view, int64_t bytes) {
  const auto element = static_cast<int64_t>(c10::elementSize(view.dtype));
  if (bytes % element != 0)
    throw Error(ErrorKind::kModel,
                Str("its record has ", bytes, " bytes, not a multiple of ", element));
  CheckInside(view.sizes, view.strides, view.offset, bytes / element);
}

}  // namespace

std::string Archive::Place(const std::string& entry) const {
  return Str("'", path_.string(), "', entry ", entry);
}

bool Archive::Named(const Error& error) const {
  return error.message().starts_with(Str("'", path_.string(), "'"));
}

Tensor Archive::Bytes(const std::string& entry) {
  Tensor bytes = at::empty({static_cast<int64_t>(zip_.Size(entry))}, at::kByte);
  zip_.Read(entry, bytes.mutable_data_ptr());
  return bytes;
}

void Archive::CheckPickle(const std::string& entry, std::string program) {
  try {
    CheckTorchPickle(zip_, std::move(program), entry.substr(0, entry.rfind('.')));
  } catch (const Error& error) {
    if (Named(error)) throw;
    Fail(entry, error.message());
  }
}

std::string Archive::Text(const std::string& entry) {
  std::string text(zip_.Size(entry), '\0');
  zip_.Read(entry, text.data());
  return text;
}

std::vector<StoredTensor> ReadTensors(Archive& archive, const std::string& config_entry,
                                      const std::string& folder) {
  std::vector<StoredTensor> tensors;
  std::map<std::string, Tensor> records;       // path_name -> bytes
  std::map<std::string, std::string> by_view;  // record and view -> first name
  std::vector<std::string> names;              // the file's order is the state dict's
  const json config = [&] {
    const std::string text = archive.Text(config_entry);
    try {
      json parsed = ParseCheckedJson(text, kMaxJsonDepth, &names);
      if (!JsonMember(parsed, "config").is_object())
        throw Error(ErrorKind::kModel, "'config' is no object");
      return parsed;
    } catch (const Error& error) {
      archive.Fail(config_entry, error.message());
    }
  }();
  std::set<std::string> read, checked;  // names; records without bytes that are no booleans
  for (const std::string& name : names) {
    const auto found = config["config"].find(name);
    if (found == config["config"].end() || !read.insert(name).second) continue;
    try {
      const std::string path_name = JsonMember(*found, "path_name", TextOf);
      if (JsonMember(*found, "use_pickle", BoolOf)) {
        const PickleValue value = ReadTorchSave(archive.Bytes(folder + path_name));
        if (value.kind != PickleValue::Kind::kTensor)
          throw Error(ErrorKind::kModel, Str("its pickle (", path_name, ") holds no plain tensor",
                                             value.text.empty() ? "" : Str(" but a ", value.text)));
        CheckOwnMemory(value.tensor);
        tensors.push_back({name, value.tensor, JsonMember(*found, "is_param", BoolOf), ""});
        continue;
      }
      const View view = JsonMember(*found, "tensor_meta", ViewOf);
      if (!records.contains(path_name)) records[path_name] = archive.Bytes(folder + path_name);
      const Tensor& bytes = records[path_name];
      CheckView(view, bytes.numel());
      if (view.dtype == at::kBool && checked.insert(path_name).second) CheckBooleans(bytes);
      const std::string key =
          Str(path_name, '|', int{static_cast<int8_t>(view.dtype)}, '|', view.offset,
              at::IntArrayRef(view.sizes), at::IntArrayRef(view.strides));
      const auto [first, fresh] = by_view.emplace(key, name);
      Tensor tensor = at::empty({0}, at::TensorOptions(view.dtype))
                          .set_(bytes.storage(), view.offset, view.sizes, view.strides);
      CheckOwnMemory(tensor);
      tensors.push_back({name, std::move(tensor), JsonMember(*found, "is_param", BoolOf),
                         fresh ? "" : first->second});
    } catch (const Error& error) {
      archive.Fail(config_entry, "tensor '", name, "': ", error.message());
    }
  }
  return tensors;
}

std::vector<StoredTensor> ReadStateDict(Archive& archive, const std::string& entry) {
  std::vector<StoredTensor> tensors;
  std::map<std::string, std::string> by_view;  // storage and view -> first name
  try {
    const PickleValue dict = ReadTorchSave(archive.Bytes(entry));
    if (dict.kind != PickleValue::Kind::kDict) archive.Fail(entry, "it holds no dict");
    for (size_t i = 0; i + 1 < dict.items.size(); i += 2) {
      const PickleValue &name = dict.items[i], &value = dict.items[i + 1];
      if (name.kind != PickleValue::Kind::kText || value.kind != PickleValue::Kind::kTensor)
        archive.Fail(entry, "entry '", name.text, "' is no plain tensor");
      CheckOwnMemory(value.tensor);
      const Tensor& tensor = value.tensor;
      const auto [first, fresh] =
          by_view.emplace(Str(tensor.storage().data(), '|', tensor.storage_offset(), tensor.sizes(),
                              tensor.strides(), '|', c10::toString(tensor.scalar_type())),
                          name.text);
      tensors.push_back({name.text, tensor, false, fresh ? "" : first->second});
    }
  } catch (const Error& error) {
    if (error.message().find(entry) != std::string::npos) throw;
    archive.Fail(entry, error.message());
  }
  return tensors;
}

}  // namespace espalier::pt2

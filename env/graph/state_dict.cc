#include <ATen/ATen.h>
#include <c10/util/strides.h>
#include <caffe2/serialize/inline_container.h>

#include "env/base/error.h"
#include "env/graph/archive_writer.h"
#include "env/graph/io.h"
#include "env/graph/storage_types.h"

namespace espalier {
namespace {

/// Writes the few pickle opcodes a dict of tensors needs (protocol 2), in the form torch.save gives
/// them: every tensor is torch._utils._rebuild_tensor_v2 of a persistent storage id.
class StateDictPickle {
 public:
  /// Tensors with the same `storage` share their memory after loading.
  void Add(const std::string& name, const Tensor& tensor, size_t storage) {
    Text(name);
    Global("torch._utils", "_rebuild_tensor_v2");
    body_ += '(';  // MARK: arguments of the rebuild function
    body_ += '(';  // MARK: the persistent id
    Text("storage");
    Global("torch", StorageName(name, tensor.scalar_type()));
    Text(std::to_string(storage));
    Text("cpu");
    Int(tensor.numel());
    body_ += "tQ";  // TUPLE, BINPERSID
    Int(0);         // storage offset
    Ints(tensor.sizes());
    Ints(c10::contiguous_strides(tensor.sizes()));
    body_ += '\x89';  // NEWFALSE: requires_grad
    Global("collections", "OrderedDict");
    body_ += ")R";  // EMPTY_TUPLE, REDUCE: no backward hooks
    body_ += "tR";  // TUPLE, REDUCE
  }

  std::string Finish() const { return Str("\x80\x02}(", body_, "u."); }

 private:
  static std::string StorageName(const std::string& name, at::ScalarType dtype) {
    for (const auto& [known, type] : kStorageTypes)
      if (type == dtype) return std::string(known);
    throw Error(ErrorKind::kModel, Str("tensor '", name, "' has dtype ", c10::toString(dtype),
                                       ", which the state dict writer does not know"));
  }
  void Global(const std::string& module, const std::string& name) {
    body_ += Str('c', module, '\n', name, '\n');
  }
  void Text(const std::string& text) {
    body_ += 'X';  // BINUNICODE
    Bytes(text.size(), 4);
    body_ += text;
  }
  void Int(int64_t value) {
    body_ += "\x8a\x08";  // LONG1 of eight bytes
    Bytes(static_cast<uint64_t>(value), 8);
  }
  void Ints(at::IntArrayRef values) {
    body_ += '(';
    for (const int64_t value : values) Int(value);
    body_ += 't';
  }
  void Bytes(uint64_t value, int count) {
    for (int i = 0; i < count; ++i) body_ += static_cast<char>(value >> (8 * i) & 0xff);
  }

  std::string body_;
};

}  // namespace

void WriteStateDict(const std::filesystem::path& path, const ParameterStore& store,
                    const TensorLoader& load) {
  StateDictPickle pickle;
  std::map<std::string, size_t> storages;  // canonical name -> data/<number>
  std::vector<std::string> order;
  for (const std::string& name : store.names()) {
    if (store.Kind(name) == StoreKind::kConstant) continue;  // not part of a state dict
    const std::string& canonical = store.Canonical(name);
    const auto [found, fresh] = storages.emplace(canonical, order.size());
    if (fresh) order.push_back(canonical);
    pickle.Add(name, store.Get(name), found->second);
  }
  WriteArchive(path, [&](caffe2::serialize::PyTorchStreamWriter& writer) {
    const std::string text = pickle.Finish();
    writer.writeRecord("data.pkl", text.data(), text.size());
    writer.writeRecord("byteorder", "little", 6);
    for (size_t i = 0; i < order.size(); ++i) {
      const Tensor given = load ? load(order[i]) : store.Get(order[i]);
      const Tensor plain = given.detach().cpu().contiguous();
      writer.writeRecord(Str("data/", i), plain.const_data_ptr(), plain.nbytes());
    }
  });
}

}  // namespace espalier

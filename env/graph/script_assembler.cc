#include "env/graph/script_assembler.h"

#include <ATen/ATen.h>
#include <ATen/core/jit_type.h>

#include <algorithm>

#include "env/base/error.h"
#include "env/graph/checked_view.h"
#include "env/graph/schema_writes.h"

namespace espalier::script {
namespace {

constexpr size_t kMaxOps = 50'000;

template <typename... Parts>
[[noreturn]] void Fail(const Parts&... parts) {
  throw Error(ErrorKind::kModel, Str(parts...));
}

std::string MemoryOf(const Tensor& tensor) {
  return Str(tensor.const_data_ptr(), ' ', tensor.scalar_type(), ' ', tensor.sizes(), ' ',
             tensor.strides());
}

void CheckPlain(const std::string& name, const Tensor& tensor) {
  if (tensor.layout() != at::kStrided || !tensor.device().is_cpu() || tensor.is_quantized())
    Fail("the stored tensor '", name, "' is ", tensor.toString(),
         "; only plain dense tensors are supported");
  // LibTorch makes whatever view a file asks for.
  try {
    CheckOwnMemory(tensor);
    if (tensor.scalar_type() == at::kBool) CheckBooleans(tensor.view(at::kByte));
  } catch (const Error& error) {
    Fail("the stored tensor '", name, "': ", error.message());
  }
}

/// The sample with `batch` rows: its own, over and over.
Tensor WithBatch(const Tensor& sample, int64_t batch) {
  if (sample.size(0) == 0) Fail("a sample input has an empty batch");
  return sample.index_select(0, at::arange(batch, at::kLong).remainder(sample.size(0)));
}

std::string BaseName(const Op& op) {
  const std::string& name = op.handle.operator_name().name;
  std::string base = name.substr(name.find("::") + 2);
  if (!op.handle.operator_name().overload_name.empty() && base == "sym_size")
    base += "_" + op.handle.operator_name().overload_name;  // as torch.export names it
  return base;
}

}  // namespace

Assembler::Assembler(std::string name, bool dynamic_batch) : dynamic_batch_(dynamic_batch) {
  network_.name = std::move(name);
}

ValueId Assembler::AddValue(Value value) {
  network_.graph.values.push_back(std::move(value));
  return static_cast<ValueId>(network_.graph.values.size() - 1);
}

void Assembler::Guard(const std::string& what, const Tensor& tensor) {
  if (tensor.numel() == 0) return;
  guarded_.emplace(tensor.storage().unsafeGetStorageImpl(), Guarded{what, tensor.storage()});
}

void Assembler::AddStored(const std::string& name, const Tensor& tensor, StoreKind kind) {
  CheckPlain(name, tensor);
  if (network_.store.Has(name)) Fail("'", name, "' is stored twice");
  Guard(Str("the stored tensor '", name, "'"), tensor);
  if (tensor.numel() > 0) {
    const auto [first, is_new] = by_memory_.emplace(MemoryOf(tensor), name);
    if (!is_new) return network_.store.Tie(name, first->second);
  }
  network_.store.Add(name, tensor.detach(), kind);
}

TensorItem Assembler::AddInput(const std::string& name, const Tensor& sample) {
  InputSpec input;
  input.sizes = sample.sizes().vec();
  input.dtype = sample.scalar_type();
  if (batch_ < 0 && sample.dim() > 0) batch_ = sample.size(0);
  input.dynamic_batch = dynamic_batch_ && sample.dim() > 0 && sample.size(0) == batch_;
  // Zeros are what --input-shape makes: as an example of indices they say nothing.
  if (sample.count_nonzero().item<int64_t>() > 0) input.sample = sample.clone();
  input.value = AddValue({name, ValueKind::kInput, {}, -1});
  TensorItem item{input.value, {}};
  for (size_t probe = 0; probe < 2; ++probe)
    item.probe[probe] =
        input.dynamic_batch ? WithBatch(sample, kProbeBatches[probe]) : sample.clone();
  if (!dynamic_batch_) item.probe[1] = item.probe[0];
  for (const Tensor& tensor : item.probe) Guard(Str("its input '", name, "'"), tensor);
  network_.graph.inputs.push_back(std::move(input));
  return item;
}

TensorItem Assembler::Stored(const std::string& name) {
  const auto known = stored_.find(name);
  if (known != stored_.end()) return known->second;
  const Tensor& tensor = network_.store.Get(name);
  static const std::map<StoreKind, std::pair<ValueKind, const char*>> kKinds = {
      {StoreKind::kParameter, {ValueKind::kParameter, "p_"}},
      {StoreKind::kBuffer, {ValueKind::kBuffer, "b_"}},
      {StoreKind::kConstant, {ValueKind::kConstant, "c_"}}};
  const auto& [kind, prefix] = kKinds.at(network_.store.Kind(name));
  std::string value_name = prefix + name;
  std::replace(value_name.begin(), value_name.end(), '.', '_');
  const TensorItem item{AddValue({value_name, kind, name, -1}), {tensor, tensor}};
  return stored_.emplace(name, item).first->second;
}

/// A tensor that stands in the code, or in a list among the attributes: stored under the name it
/// has already, or as a lifted constant.
TensorItem Assembler::Constant(const Tensor& tensor) {
  const auto known = by_memory_.find(MemoryOf(tensor));
  if (tensor.numel() > 0 && known != by_memory_.end()) return Stored(known->second);
  std::string name;
  do name = Str("lifted_tensor_", constants_++);
  while (network_.store.Has(name));
  AddStored(name, tensor, StoreKind::kConstant);
  return Stored(name);
}

// ---- calls ----

void Assembler::CheckWrites(const c10::OperatorHandle& handle,
                            const std::vector<Item>& arguments) const {
  for (size_t i = 0; i < arguments.size(); ++i) {
    if (!IsWritten(handle.schema().arguments()[i])) continue;
    const auto* tensor = As<TensorItem>(arguments[i]);
    if (!tensor) Fail("it writes to a constant");
    for (const Tensor& probe : tensor->probe) {
      const auto found = guarded_.find(probe.storage().unsafeGetStorageImpl());
      if (found != guarded_.end())
        throw Error(ErrorKind::kModel, Str("it writes to ", found->second.what),
                    "call model.eval() first; what still writes has to make a new tensor instead");
    }
  }
}

std::vector<Item> Assembler::ItemsOf(Op& op, const std::vector<std::vector<c10::IValue>>& results) {
  const auto add = [&](const c10::IValue& first, const c10::IValue& second) {
    const ValueId id = AddValue({{}, ValueKind::kResult, {}, 0});
    op.outputs.push_back(id);
    return TensorItem{id, {first.toTensor(), second.toTensor()}};
  };
  std::vector<Item> items;
  for (size_t i = 0; i < op.handle.schema().returns().size(); ++i) {
    const c10::TypePtr type = op.handle.schema().returns()[i].type();
    const c10::IValue &first = results[0][i], &second = results[1][i];
    if (type->kind() == c10::TypeKind::TensorType) {
      items.emplace_back(add(first, second));
    } else if (type->kind() == c10::TypeKind::ListType && first.isTensorList()) {
      op.returns_list = true;
      const auto a = first.toTensorVector(), b = second.toTensorVector();
      if (a.size() != b.size()) Fail("the number of its results depends on the batch");
      std::vector<Item> parts;
      for (size_t k = 0; k < a.size(); ++k) parts.emplace_back(add(a[k], b[k]));
      items.emplace_back(MakeList(std::move(parts), c10::TensorType::get()));
    } else if (type->kind() == c10::TypeKind::IntType) {
      op.outputs.push_back(AddValue({{}, ValueKind::kResult, {}, 0}));
      items.emplace_back(SizeItem{op.outputs.back(), {first.toInt(), second.toInt()}});
    } else {
      Fail("it returns ", type->str(), ", only tensors are supported");
    }
  }
  return items;
}

std::vector<Item> Assembler::Call(const c10::OperatorHandle& handle,
                                  const std::vector<Item>& arguments, const Place& place) {
  if (network_.graph.ops.size() >= kMaxOps)
    Fail("the network has more than ", kMaxOps, " operators");
  CheckWrites(handle, arguments);
  auto dtype = at::ScalarType::Undefined;
  for (const Item& item : arguments)
    if (const auto* tensor = As<TensorItem>(item); tensor && tensor->probe[0].dim() > 0)
      dtype = tensor->probe[0].scalar_type();
  Op op{.name = {},
        .handle = handle,
        .args = {},
        .outputs = {},
        .returns_list = false,
        .module_path = place.path,
        .module_type = place.type};
  std::array<std::vector<c10::IValue>, 2> stacks;
  for (size_t i = 0; i < arguments.size(); ++i) {
    Resolved resolved = Resolve(handle, i, arguments[i], dtype, place);
    op.args.push_back(std::move(resolved.arg));
    for (size_t probe = 0; probe < 2; ++probe) stacks[probe].push_back(resolved.at[probe]);
  }
  std::vector<std::vector<c10::IValue>> results;
  for (size_t probe = 0; probe < (dynamic_batch_ ? 2 : 1); ++probe) {
    try {
      handle.callBoxed(stacks[probe]);
    } catch (const c10::OutOfMemoryError&) {
      throw;
    } catch (const c10::Error& error) {
      Fail("it fails", dynamic_batch_ ? Str(" at batch ", kProbeBatches[probe]) : "", ": ",
           error.what_without_backtrace());
    }
    results.push_back(std::move(stacks[probe]));
  }
  if (!dynamic_batch_) results.push_back(results.front());
  std::vector<Item> items = ItemsOf(op, results);
  if (op.target() == "aten::t")
    if (const auto* read = As<TensorItem>(arguments.front()))
      transposes_.emplace(op.outputs.front(), *read);
  network_.graph.ops.push_back(std::move(op));
  return items;
}

const TensorItem* Assembler::TransposeOf(const TensorItem& tensor) const {
  const auto found = transposes_.find(tensor.id);
  return found == transposes_.end() ? nullptr : &found->second;
}

// ---- sizes ----

SizeItem Assembler::Batch(const Place& place) {
  for (const InputSpec& input : network_.graph.inputs) {
    if (!input.dynamic_batch) continue;
    TensorItem tensor{input.value, {}};
    const auto known = sizes_.find(Str(input.value, " 0"));
    if (known != sizes_.end()) return known->second;
    for (size_t probe = 0; probe < 2; ++probe)
      tensor.probe[probe] = at::empty({kProbeBatches[probe], 0});
    static const auto kSymSize = FindOperator("aten::sym_size", "int");
    const auto made = Call(kSymSize, {tensor, c10::IValue(0)}, place);
    return sizes_.emplace(Str(input.value, " 0"), std::get<SizeItem>(made.front())).first->second;
  }
  Fail("no input has a batch");
}

Item Assembler::SizeOf(const TensorItem& tensor, int64_t dim, const Place& place) {
  const int64_t rank = tensor.probe[0].dim();
  if (tensor.probe[1].dim() != rank) Fail("the rank of a tensor depends on the batch");
  const int64_t axis = dim < 0 ? dim + rank : dim;
  if (axis < 0 || axis >= rank) Fail("axis ", dim, " of a tensor with ", rank);
  const std::array<int64_t, 2> at = {tensor.probe[0].size(axis), tensor.probe[1].size(axis)};
  if (at[0] == at[1]) return c10::IValue(at[0]);
  if (at == kProbeBatches) return Batch(place);
  const std::string key = Str(tensor.id, ' ', axis);
  const auto known = sizes_.find(key);
  if (known != sizes_.end()) return known->second;
  static const auto kSymSize = FindOperator("aten::sym_size", "int");
  const auto made = Call(kSymSize, {tensor, c10::IValue(axis)}, place);
  return sizes_.emplace(key, std::get<SizeItem>(made.front())).first->second;
}

SizeItem Assembler::Arithmetic(const std::string& op, const Item& a, const Item& b,
                               const Place& place) {
  const auto left = IntOf(a), right = IntOf(b);
  const auto text = [](const std::variant<int64_t, SizeItem>& number) {
    const auto* size = std::get_if<SizeItem>(&number);
    return size ? Str('v', size->id) : Str(std::get<int64_t>(number));
  };
  const auto item = [](const std::variant<int64_t, SizeItem>& number) -> Item {
    if (const auto* size = std::get_if<SizeItem>(&number)) {
      SizeItem plain = *size;
      plain.as_tensor = false;
      return plain;
    }
    return c10::IValue(std::get<int64_t>(number));
  };
  const std::string key = Str(op, ' ', text(left), ' ', text(right));
  const auto known = sizes_.find(key);
  if (known != sizes_.end()) return known->second;
  const bool division = op == "div";
  if (division) {
    const auto at = [](const std::variant<int64_t, SizeItem>& number, size_t probe) {
      const auto* size = std::get_if<SizeItem>(&number);
      return size ? size->at[probe] : std::get<int64_t>(number);
    };
    for (size_t probe = 0; probe < 2; ++probe)
      if (at(right, probe) == 0 || at(left, probe) % at(right, probe) != 0)
        Fail("a size that follows the batch is divided and leaves a remainder");
  }
  const auto handle = FindOperator("espalier_sym::" + (division ? "floordiv" : op), "");
  const auto made = Call(handle, {item(left), item(right)}, place);
  return sizes_.emplace(key, std::get<SizeItem>(made.front())).first->second;
}

// ---- the network ----

Network Assembler::Finish(const std::vector<ValueId>& outputs) {
  Graph& graph = network_.graph;
  std::vector<bool> read(graph.values.size());
  for (const ValueId output : outputs) read[static_cast<size_t>(output)] = true;
  std::vector<bool> live(graph.ops.size());
  for (size_t i = graph.ops.size(); i-- > 0;) {
    const Op& op = graph.ops[i];
    const bool is_read = std::any_of(op.outputs.begin(), op.outputs.end(),
                                     [&](ValueId id) { return read[static_cast<size_t>(id)]; });
    if (!is_read && !WritesAny(op.handle.schema())) continue;
    live[i] = true;
    for (const Use& use : UsesOf(op)) read[static_cast<size_t>(use.value)] = true;
  }
  // Values again from the start: stored ones in the order of the store, inputs, results.
  Graph made;
  std::vector<ValueId> renumbered(graph.values.size(), kNoValue);
  std::set<std::string> taken;
  const auto keep = [&](ValueId id, const std::string& base, int32_t producer) {
    Value value = graph.values[static_cast<size_t>(id)];
    value.name = base;
    for (int64_t i = 1; !taken.insert(value.name).second; ++i) value.name = Str(base, '_', i);
    value.producer = producer;
    made.values.push_back(std::move(value));
    return renumbered[static_cast<size_t>(id)] = static_cast<ValueId>(made.values.size() - 1);
  };
  for (const std::string& name : network_.store.names()) {
    const auto found = stored_.find(name);
    if (found == stored_.end() || !read[static_cast<size_t>(found->second.id)]) continue;
    keep(found->second.id, graph.values[static_cast<size_t>(found->second.id)].name, -1);
  }
  for (InputSpec& input : graph.inputs) {
    input.value = keep(input.value, graph.values[static_cast<size_t>(input.value)].name, -1);
    made.inputs.push_back(std::move(input));
  }
  const auto renumber = [&](ValueId& id) {
    if (id != kNoValue) id = renumbered[static_cast<size_t>(id)];
  };
  for (size_t i = 0; i < graph.ops.size(); ++i) {
    if (!live[i]) continue;
    Op& op = graph.ops[i];
    for (Arg& arg : op.args) {
      if (auto* id = std::get_if<ValueId>(&arg)) renumber(*id);
      if (auto* list = std::get_if<ValueList>(&arg))
        for (ValueId& id : list->ids) renumber(id);
      if (auto* sizes = std::get_if<ScalarList>(&arg))
        for (auto& size : sizes->items)
          if (auto* id = std::get_if<ValueId>(&size)) renumber(*id);
    }
    for (ValueId& id : op.outputs)
      id = keep(id, BaseName(op), static_cast<int32_t>(made.ops.size()));
    op.name = op.outputs.empty() ? Str("node_", i)
                                 : made.values[static_cast<size_t>(op.outputs.front())].name;
    made.ops.push_back(std::move(op));
  }
  for (ValueId output : outputs) {
    renumber(output);
    made.outputs.push_back(output);
  }
  graph = std::move(made);
  Validate(graph);
  return std::move(network_);
}

}  // namespace espalier::script

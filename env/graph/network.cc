#include "env/graph/network.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <set>

#include "env/base/error.h"
#include "env/base/files.h"
#include "env/graph/tensor_loader.h"

namespace espalier {

std::string Op::target() const {
  const auto& name = handle.operator_name();
  return name.overload_name.empty() ? name.name : name.name + "." + name.overload_name;
}

int Op::ArgIndex(const std::string& argument) const {
  const auto& arguments = handle.schema().arguments();
  for (size_t i = 0; i < arguments.size(); ++i)
    if (arguments[i].name() == argument) return static_cast<int>(i);
  return -1;
}

ValueId Op::ValueArg(const std::string& argument) const {
  const int index = ArgIndex(argument);
  if (index < 0) return kNoValue;
  const auto* id = std::get_if<ValueId>(&args[static_cast<size_t>(index)]);
  return id ? *id : kNoValue;
}

const c10::IValue& Op::Constant(const std::string& argument) const {
  const int index = ArgIndex(argument);
  ESPALIER_CHECK(index >= 0, target(), " has no argument '", argument, "'");
  const auto* constant = std::get_if<c10::IValue>(&args[static_cast<size_t>(index)]);
  ESPALIER_CHECK(constant, name, ": argument '", argument, "' is not a constant");
  return *constant;
}

void ParameterStore::Add(const std::string& name, Tensor tensor, StoreKind kind) {
  ESPALIER_CHECK(!Has(name), "stored twice: ", name);
  index_[name] = slots_.size();
  names_.push_back(name);
  slots_.push_back({name, std::move(tensor), kind});
}

void ParameterStore::Tie(const std::string& alias, const std::string& name) {
  ESPALIER_CHECK(!Has(alias), "stored twice: ", alias);
  Get(name);  // throws for an unknown name
  index_[alias] = index_.at(name);
  names_.push_back(alias);
}

namespace {
[[noreturn]] void ThrowUnknown(const std::string& name, const std::vector<std::string>& known) {
  const std::string nearest = NearestName(name, known);
  throw Error(ErrorKind::kModel, Str("no stored tensor is named '", name, "'"),
              nearest.empty() ? "" : Str("did you mean '", nearest, "'?"));
}
}  // namespace

const Tensor& ParameterStore::Get(const std::string& name) const {
  const auto found = index_.find(name);
  if (found == index_.end()) ThrowUnknown(name, names_);
  return slots_[found->second].tensor;
}

StoreKind ParameterStore::Kind(const std::string& name) const {
  const auto found = index_.find(name);
  if (found == index_.end()) ThrowUnknown(name, names_);
  return slots_[found->second].kind;
}

const std::string& ParameterStore::Canonical(const std::string& name) const {
  const auto found = index_.find(name);
  if (found == index_.end()) ThrowUnknown(name, names_);
  return slots_[found->second].canonical;
}

void ParameterStore::Set(const std::string& name, Tensor tensor) {
  const auto found = index_.find(name);
  if (found == index_.end()) ThrowUnknown(name, names_);
  slots_[found->second].tensor = std::move(tensor);
}

std::vector<std::string> ParameterStore::CanonicalNames() const {
  std::vector<std::string> names;
  names.reserve(slots_.size());
  for (const Slot& slot : slots_) names.push_back(slot.canonical);
  return names;
}

ParameterStore ParameterStore::Clone() const {
  ParameterStore copy = *this;
  for (Slot& slot : copy.slots_) slot.tensor = slot.tensor.detach().clone();
  return copy;
}

int64_t ParameterStore::ParameterCount() const {
  int64_t count = 0;
  for (const Slot& slot : slots_)
    if (slot.kind == StoreKind::kParameter) count += slot.tensor.numel();
  return count;
}

void ParameterStore::SetRequiresGrad(bool on) {
  for (Slot& slot : slots_)
    if (slot.kind == StoreKind::kParameter && slot.tensor.is_floating_point())
      slot.tensor.set_requires_grad(on);
}

ParameterStore ParameterStore::To(at::Device device) const {
  ParameterStore moved = *this;
  for (Slot& slot : moved.slots_) slot.tensor = slot.tensor.to(device);
  return moved;
}

std::vector<std::vector<int32_t>> Graph::Consumers() const {
  std::vector<std::vector<int32_t>> consumers(values.size());
  for (size_t op = 0; op < ops.size(); ++op)
    for (const Use& use : UsesOf(ops[op])) {
      auto& list = consumers[static_cast<size_t>(use.value)];
      if (list.empty() || list.back() != static_cast<int32_t>(op))
        list.push_back(static_cast<int32_t>(op));
    }
  return consumers;
}

ValueId Graph::FindStored(const std::string& target) const {
  for (size_t id = 0; id < values.size(); ++id)
    if (values[id].target == target && values[id].kind != ValueKind::kResult)
      return static_cast<ValueId>(id);
  return kNoValue;
}

std::string Network::WeightsHash() const { return espalier::WeightsHash(store, LoaderOf(store)); }

std::vector<Use> UsesOf(const Op& op) {
  std::vector<Use> uses;
  for (size_t a = 0; a < op.args.size(); ++a) {
    const auto arg = static_cast<int32_t>(a);
    if (const auto* id = std::get_if<ValueId>(&op.args[a])) {
      if (*id != kNoValue) uses.push_back({*id, arg, 0});
    } else if (const auto* list = std::get_if<ValueList>(&op.args[a])) {
      for (size_t i = 0; i < list->ids.size(); ++i)
        if (list->ids[i] != kNoValue) uses.push_back({list->ids[i], arg, static_cast<int32_t>(i)});
    } else if (const auto* scalars = std::get_if<ScalarList>(&op.args[a])) {
      for (size_t i = 0; i < scalars->items.size(); ++i)
        if (const auto* item = std::get_if<ValueId>(&scalars->items[i]))
          uses.push_back({*item, arg, static_cast<int32_t>(i)});
    }
  }
  return uses;
}

namespace {
/// A file must not make us touch other files, the terminal, other processes or raw memory.
bool ReachesOutside(const std::string& op) {
  static constexpr std::string_view kRefused[] = {
      "aten::from_file", "aten::_print",     "c10d::",     "_c10d_",       "symm_mem::",
      "inductor::",      "mkldnn::data_ptr", "profiler::", "debugprims::", "static_runtime::"};
  if (op.ends_with("_tensor_unsafe")) return true;  // sparse ones: indices are taken on trust
  return std::any_of(std::begin(kRefused), std::end(kRefused),
                     [&](std::string_view prefix) { return op.starts_with(prefix); });
}
}  // namespace

void Validate(const Graph& graph) {
  const auto count = static_cast<ValueId>(graph.values.size());
  std::vector<bool> defined(graph.values.size());
  for (size_t id = 0; id < graph.values.size(); ++id)
    defined[id] = graph.values[id].kind != ValueKind::kResult;
  for (size_t i = 0; i < graph.ops.size(); ++i) {
    const Op& op = graph.ops[i];
    const std::string where =
        Str("op '", op.name, "' (", op.target(), " at '", op.module_path, "')");
    if (ReachesOutside(op.handle.operator_name().name))
      throw Error(ErrorKind::kModel,
                  Str(where, " reaches outside of its tensors: networks from files may not"));
    if (op.args.size() != op.handle.schema().arguments().size())
      throw Error(ErrorKind::kModel, Str(where, " has ", op.args.size(), " arguments, its schema ",
                                         op.handle.schema().arguments().size()));
    for (const Use& use : UsesOf(op))
      if (use.value < 0 || use.value >= count || !defined[static_cast<size_t>(use.value)])
        throw Error(ErrorKind::kModel,
                    Str(where, " reads value ", use.value, ", which is not computed before it"));
    for (const ValueId output : op.outputs) {
      if (output < 0 || output >= count || defined[static_cast<size_t>(output)])
        throw Error(ErrorKind::kModel, Str(where, " writes value ", output, ", which is taken"));
      defined[static_cast<size_t>(output)] = true;
    }
  }
  for (const ValueId output : graph.outputs)
    if (output < 0 || output >= count || !defined[static_cast<size_t>(output)])
      throw Error(ErrorKind::kModel, Str("graph output ", output, " is never computed"));
}

c10::OperatorHandle FindOperator(const std::string& name, const std::string& overload) {
  const auto found = c10::Dispatcher::singleton().findSchema({name.c_str(), overload.c_str()});
  if (!found)
    throw Error(ErrorKind::kModel, Str("LibTorch has no operator '", name,
                                       overload.empty() ? "" : ".", overload, "'"));
  return *found;
}

}  // namespace espalier

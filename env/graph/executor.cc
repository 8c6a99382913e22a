#include "env/graph/executor.h"

#include <ATen/ATen.h>
#include <ATen/ScalarOps.h>

#include <algorithm>
#include <map>
#include <set>

#include "env/base/error.h"
#include "env/base/memory_error.h"
#include "env/graph/merged_batch.h"
#include "env/graph/schema_writes.h"
#include "env/graph/shape_only.h"

namespace espalier {
namespace {

/// The argument that says "use batch statistics / drop now" for ops whose mode export bakes in.
int32_t FindModeArg(const Op& op) {
  const std::string& name = op.handle.operator_name().name;
  static const std::vector<std::pair<std::string, std::string>> kFlags = {
      {"aten::batch_norm", "training"},
      {"aten::native_batch_norm", "training"},
      {"aten::dropout", "train"},
      {"aten::dropout_", "train"},
      {"aten::feature_dropout", "train"},
      {"aten::feature_dropout_", "train"},
      {"aten::alpha_dropout", "train"},
      {"aten::alpha_dropout_", "train"},
      {"aten::lstm", "train"},
      {"aten::gru", "train"},
      {"aten::instance_norm", "use_input_stats"}};
  for (const auto& [flagged, argument] : kFlags)
    if (name == flagged) {
      // Without running statistics (standardised weights, say) there is nothing else to use.
      if (name.ends_with("_norm") && op.ValueArg("running_mean") == kNoValue) return -1;
      return op.ArgIndex(argument);
    }
  return -1;
}

/// What an index_add with this index does, see Binding::scatter_.
Tensor ScatterMatrix(const Tensor& index, const c10::IValue& dim) {
  if (!index.defined() || index.dim() != 1 || index.scalar_type() != at::kLong) return {};
  if (at::equal(index, at::arange(index.numel(), index.options()))) return at::ones({});
  if (!index.is_cpu() || dim.toInt() != 1 || index.numel() == 0) return {};
  const int64_t channels = index.max().item<int64_t>() + 1;
  return at::zeros({channels, index.numel(), 1, 1})
      .index_put_({index, at::arange(index.numel())}, at::ones({}));
}

/// index_add(trunk, dim, index, branch, alpha) in a faster way where there is one: a plain addition
/// when it adds at every index in order; on CPU a 1x1 convolution with zeros and ones, which is
/// exact and, unlike index_add's loop over channels, fast in channels_last and in its gradient.
bool FastScatter(const Tensor& matrix, std::vector<c10::IValue>& stack) {
  if (!matrix.defined()) return false;
  const Tensor &trunk = stack[0].toTensor(), &branch = stack[3].toTensor();
  if (matrix.dim() == 0) {
    if (trunk.size(stack[1].toInt()) != stack[2].toTensor().numel()) return false;
    stack = {at::add(trunk, branch, stack[4].toScalar())};
    return true;
  }
  const at::ScalarType dtype = branch.scalar_type();
  const int64_t lacking = branch.dim() == 4 ? trunk.size(1) - matrix.size(0) : -1;
  if (lacking < 0 || !branch.is_cpu() || stack[4].toScalar().toDouble() != 1 ||
      trunk.scalar_type() != dtype || (dtype != at::kFloat && dtype != at::kBFloat16))
    return false;
  const Tensor weight = at::constant_pad_nd(matrix, {0, 0, 0, 0, 0, 0, 0, lacking}).to(dtype);
  stack = {at::add(trunk, at::conv2d(branch, weight.contiguous(at::MemoryFormat::ChannelsLast)))};
  return true;
}

bool ElementsAreOptional(const c10::Argument& argument) {
  const auto list = argument.type()->cast<c10::ListType>();
  return list && list->getElementType()->kind() == c10::TypeKind::OptionalType;
}

std::string DescribeInputs(const std::vector<c10::IValue>& stack) {
  std::string text;
  for (const c10::IValue& value : stack)
    if (value.isTensor() && value.toTensor().defined())
      text += Str(text.empty() ? "" : ", ", value.toTensor().sizes());
  return text;
}

[[noreturn]] void ThrowOpFailed(const Op& op, const c10::Error& error, const std::string& inputs) {
  const std::string what = CauseOf(error);
  if (IsOutOfMemory(error))
    throw Error(ErrorKind::kResource, Str("out of memory in op '", op.name, "': ", what));
  throw Error(ErrorKind::kModel, Str("op '", op.name, "' (", op.target(), " at '", op.module_path,
                                     "', inputs ", inputs, ") failed: ", what));
}

/// By input: whether an operator may write into it, directly or through a view.
std::vector<bool> WrittenInputs(const Graph& graph) {
  std::vector<int32_t> source(graph.values.size(), -1);  // the input a value may share memory with
  for (size_t i = 0; i < graph.inputs.size(); ++i)
    source[static_cast<size_t>(graph.inputs[i].value)] = static_cast<int32_t>(i);
  std::vector<bool> written(graph.inputs.size(), false);
  for (const Op& op : graph.ops) {
    for (const Use& use : UsesOf(op)) {
      const int32_t input = source[static_cast<size_t>(use.value)];
      if (input >= 0 && IsWritten(op.handle.schema().arguments()[static_cast<size_t>(use.arg)]))
        written[static_cast<size_t>(input)] = true;
      if (input >= 0 && use.arg == 0 && MayReturnItsArgument(op))
        for (const ValueId output : op.outputs) source[static_cast<size_t>(output)] = input;
    }
  }
  return written;
}

}  // namespace

Executor::Executor(const Graph& graph)
    : graph_(graph),
      last_use_(graph.values.size(), -1),
      free_after_(graph.ops.size()),
      mode_arg_(graph.ops.size(), -1),
      copy_input_(WrittenInputs(graph)) {
  static const auto kReshape = FindOperator("aten::reshape", "");
  for (size_t op = 0; op < graph.ops.size(); ++op) {
    mode_arg_[op] = FindModeArg(graph.ops[op]);
    calls_.push_back(graph.ops[op].target() == "aten::view" ? kReshape : graph.ops[op].handle);
    for (const Use& use : UsesOf(graph.ops[op]))
      last_use_[static_cast<size_t>(use.value)] = static_cast<int32_t>(op);
    for (const ValueId output : graph.ops[op].outputs)  // results nobody reads die at once
      last_use_[static_cast<size_t>(output)] = static_cast<int32_t>(op);
  }
  for (const ValueId output : graph.outputs) last_use_[static_cast<size_t>(output)] = -1;
  for (size_t id = 0; id < graph.values.size(); ++id)
    if (last_use_[id] >= 0)
      free_after_[static_cast<size_t>(last_use_[id])].push_back(static_cast<ValueId>(id));
}

namespace {

/// Device literals (of arange, zeros, to, ...) that differ from where the stored tensors are.
std::vector<ArgEdit> DeviceEdits(const Graph& graph, const std::vector<Tensor>& stored) {
  std::optional<at::Device> device;
  for (const Tensor& tensor : stored)
    if (tensor.defined() && !tensor.is_meta() && !device) device = tensor.device();
  std::vector<ArgEdit> edits;
  for (size_t op = 0; op < graph.ops.size(); ++op)
    for (size_t arg = 0; arg < graph.ops[op].args.size(); ++arg) {
      const auto* constant = std::get_if<c10::IValue>(&graph.ops[op].args[arg]);
      if (constant && constant->isDevice() && constant->toDevice() != device.value_or(at::kCPU))
        edits.push_back(
            {static_cast<int32_t>(op), static_cast<int32_t>(arg), device.value_or(at::kCPU)});
    }
  return edits;
}

}  // namespace

Binding Executor::Bind(const ParameterStore& store, std::vector<ArgEdit> edits) const {
  Binding binding;
  binding.tensors_.resize(graph_.values.size());
  for (size_t id = 0; id < graph_.values.size(); ++id)
    if (!graph_.values[id].target.empty())
      binding.tensors_[id] = store.Get(graph_.values[id].target);
  binding.devices_ = DeviceEdits(graph_, binding.tensors_);
  std::sort(edits.begin(), edits.end(),
            [](const ArgEdit& a, const ArgEdit& b) { return a.op < b.op; });
  binding.edits_ = std::move(edits);
  binding.scatter_.resize(graph_.ops.size());
  for (size_t i = 0; i < graph_.ops.size(); ++i) {
    const Op& op = graph_.ops[i];
    if (op.handle.operator_name().name != "aten::index_add") continue;
    const ValueId index = op.ValueArg("index");
    if (index != kNoValue)
      binding.scatter_[i] = ScatterMatrix(binding.tensor(index), op.Constant("dim"));
  }
  return binding;
}

/// State of one Run: the value slots and what the options attach to each op.
struct Executor::Step {
  std::vector<c10::IValue> slots;
  std::vector<std::vector<const Gate*>> gates;  // by op; empty when there are none
  std::vector<std::vector<const Tap*>> taps;    // by value
  struct Gated {
    ValueId value;
    std::vector<c10::TensorImpl*> multipliers;  // one after the other
    Tensor result;
  };
  std::vector<Gated> gated;  // products already computed in this run

  /// input: `value` times the multipliers of gates before this one, to which its own is added.
  Tensor ApplyGate(const Gate& gate, ValueId value, const Tensor& input,
                   std::vector<c10::TensorImpl*>& multipliers) {
    multipliers.push_back(gate.multiplier.unsafeGetTensorImpl());
    for (const Gated& known : gated)
      if (known.value == value && known.multipliers == multipliers) return known.result;
    std::vector<int64_t> shape(static_cast<size_t>(input.dim()), 1);
    if (gate.axis >= 0) shape[static_cast<size_t>(gate.axis)] = gate.multiplier.numel();
    const Tensor factors = gate.axis >= 0 ? gate.multiplier.view(shape) : gate.multiplier;
    Tensor result = input * SpreadOverBatch(factors, input.sizes());
    gated.push_back({value, multipliers, result});
    return result;
  }

  c10::IValue Read(int32_t op, int32_t arg, int32_t element, ValueId value) {
    if (value == kNoValue) return {};
    c10::IValue input = slots[static_cast<size_t>(value)];
    if (gates.empty()) return input;
    std::vector<c10::TensorImpl*> multipliers;
    for (const Gate* gate : gates[static_cast<size_t>(op)])
      if (gate->arg == arg && gate->element == element)
        input = ApplyGate(*gate, value, input.toTensor(), multipliers);
    return input;
  }

  void Free(ValueId value) {
    slots[static_cast<size_t>(value)] = c10::IValue();
    std::erase_if(gated, [&](const Gated& known) { return known.value == value; });
  }

  c10::IValue Argument(const Op& op, int32_t index, int32_t arg) {
    return Argument(op, index, arg, op.args[static_cast<size_t>(arg)]);
  }

  c10::IValue Argument(const Op& op, int32_t index, int32_t arg, const Arg& source) {
    if (const auto* constant = std::get_if<c10::IValue>(&source)) return *constant;
    if (const auto* value = std::get_if<ValueId>(&source)) {
      c10::IValue read = Read(index, arg, 0, *value);
      if (!read.isInt()) return read;
      // Python adds a size to a tensor as it adds a number.
      const auto& type = op.handle.schema().arguments()[static_cast<size_t>(arg)].type();
      if (type->kind() != c10::TypeKind::TensorType) return read;
      return at::native::wrapped_scalar_tensor(read.toInt());
    }
    if (const auto* scalars = std::get_if<ScalarList>(&source)) {
      std::vector<int64_t> items;
      for (const auto& item : scalars->items)
        items.push_back(std::holds_alternative<int64_t>(item)
                            ? std::get<int64_t>(item)
                            : slots[static_cast<size_t>(std::get<ValueId>(item))].toInt());
      return items;
    }
    const auto& ids = std::get<ValueList>(source).ids;
    const auto& argument = op.handle.schema().arguments()[static_cast<size_t>(arg)];
    if (ElementsAreOptional(argument)) {
      c10::List<std::optional<Tensor>> list;
      for (size_t i = 0; i < ids.size(); ++i) {
        const c10::IValue item = Read(index, arg, static_cast<int32_t>(i), ids[i]);
        list.push_back(item.isNone() ? std::optional<Tensor>() : item.toTensor());
      }
      return list;
    }
    c10::List<Tensor> list;
    for (size_t i = 0; i < ids.size(); ++i)
      list.push_back(Read(index, arg, static_cast<int32_t>(i), ids[i]).toTensor());
    return list;
  }

  void Store(const Op& op, std::vector<c10::IValue>& stack) {
    if (op.returns_list) {
      const auto list = stack.front().toTensorVector();
      ESPALIER_CHECK(list.size() == op.outputs.size(), op.name, " returned ", list.size(),
                     " tensors, the graph expects ", op.outputs.size());
      for (size_t i = 0; i < list.size(); ++i) Put(op.outputs[i], list[i]);
      return;
    }
    ESPALIER_CHECK(stack.size() >= op.outputs.size(), op.name, " returned too few values");
    for (size_t i = 0; i < op.outputs.size(); ++i) Put(op.outputs[i], std::move(stack[i]));
  }

  void Put(ValueId id, c10::IValue value) {
    if (!taps.empty() && (value.isTensor() || value.isInt()))
      for (const Tap* tap : taps[static_cast<size_t>(id)])
        tap->record(value.isTensor() ? value.toTensor()
                                     : at::scalar_tensor(value.toInt(), at::kLong));
    slots[static_cast<size_t>(id)] = std::move(value);
  }
};

std::vector<Tensor> Executor::Run(const Binding& binding, const std::vector<Tensor>& inputs,
                                  const RunOptions& options) const {
  ESPALIER_CHECK(inputs.size() == graph_.inputs.size(), "the network takes ", graph_.inputs.size(),
                 " inputs, got ", inputs.size());
  Step step;
  step.slots.resize(graph_.values.size());
  if (!options.gates.empty()) {
    step.gates.resize(graph_.ops.size());
    for (const Gate& gate : options.gates)
      step.gates[static_cast<size_t>(gate.op)].push_back(&gate);
  }
  if (!options.taps.empty()) {
    step.taps.resize(graph_.values.size());
    for (const Tap& tap : options.taps) step.taps[static_cast<size_t>(tap.value)].push_back(&tap);
  }
  for (size_t id = 0; id < graph_.values.size(); ++id)
    if (binding.tensors_[id].defined()) step.Put(static_cast<ValueId>(id), binding.tensors_[id]);
  for (size_t i = 0; i < inputs.size(); ++i)
    step.Put(graph_.inputs[i].value, copy_input_[i] ? inputs[i].clone() : inputs[i]);
  RunOps(binding, options, step, 0, static_cast<int32_t>(graph_.ops.size()));
  std::vector<Tensor> outputs;
  for (const ValueId output : graph_.outputs)
    outputs.push_back(step.slots[static_cast<size_t>(output)].toTensor());
  return outputs;
}

void Executor::RunOps(const Binding& binding, const RunOptions& options, Step& step, int32_t first,
                      int32_t last) const {
  const auto from = [first](const std::vector<ArgEdit>& edits) {
    return std::lower_bound(edits.begin(), edits.end(), first,
                            [](const ArgEdit& edit, int32_t op) { return edit.op < op; });
  };
  auto edit = from(binding.edits_);
  auto device = from(binding.devices_);
  std::vector<c10::IValue> stack;
  for (auto index = first; index < last; ++index) {
    const auto i = static_cast<size_t>(index);
    const Op& op = graph_.ops[i];
    stack.clear();
    for (size_t a = 0; a < op.args.size(); ++a)
      stack.push_back(step.Argument(op, index, static_cast<int32_t>(a)));
    if (mode_arg_[i] >= 0) stack[static_cast<size_t>(mode_arg_[i])] = options.mode == Mode::kTrain;
    for (; device != binding.devices_.end() && device->op == index; ++device)
      stack[static_cast<size_t>(device->arg)] = std::get<c10::IValue>(device->value);
    for (; edit != binding.edits_.end() && edit->op == index; ++edit)
      stack[static_cast<size_t>(edit->arg)] = step.Argument(op, index, edit->arg, edit->value);
    try {
      if (!(options.shapes_only && ShapeOnly(op, stack)) &&
          !FastScatter(binding.scatter_[i], stack))
        calls_[i].callBoxed(stack);
    } catch (const c10::OutOfMemoryError&) {
      throw;
    } catch (const c10::Error& error) {
      stack.clear();
      for (size_t a = 0; a < op.args.size(); ++a)
        stack.push_back(step.Argument(op, index, static_cast<int32_t>(a)));
      ThrowOpFailed(op, error, DescribeInputs(stack));
    }
    step.Store(op, stack);
    stack.clear();
    for (const ValueId dead : free_after_[i]) step.Free(dead);
  }
}

Executor::Progress Executor::Start(const Binding& binding,
                                   const std::vector<Tensor>& inputs) const {
  ESPALIER_CHECK(inputs.size() == graph_.inputs.size(), "the network takes ", graph_.inputs.size(),
                 " inputs, got ", inputs.size());
  Progress progress;
  progress.slots.resize(graph_.values.size());
  for (size_t id = 0; id < graph_.values.size(); ++id)
    if (binding.tensors_[id].defined()) progress.slots[id] = binding.tensors_[id];
  for (size_t i = 0; i < inputs.size(); ++i)
    progress.slots[static_cast<size_t>(graph_.inputs[i].value)] =
        copy_input_[i] ? inputs[i].clone() : inputs[i];
  return progress;
}

void Executor::Advance(const Binding& binding, Progress& progress, int32_t last) const {
  Step step;
  step.slots = std::move(progress.slots);
  RunOps(binding, {}, step, progress.next, last);
  progress = {std::move(step.slots), last};
}

Executor::Progress Executor::Fork(const Progress& progress, const Binding& binding) const {
  Progress fork = progress;
  std::map<const c10::StorageImpl*, c10::Storage> copies;  // views stay views of one memory
  for (size_t id = 0; id < fork.slots.size(); ++id) {
    c10::IValue& slot = fork.slots[id];
    if (!graph_.values[id].target.empty()) {
      const bool needed = last_use_[id] < 0 || last_use_[id] >= fork.next;
      slot = needed ? c10::IValue(binding.tensors_[id]) : c10::IValue();
      continue;
    }
    if (!slot.isTensor() || !slot.toTensor().has_storage()) continue;
    const Tensor& value = slot.toTensor();
    c10::Storage& copy = copies[value.storage().unsafeGetStorageImpl()];
    if (!copy) copy = at::empty({0}, value.options()).set_(value.storage()).clone().storage();
    slot = at::empty({0}, value.options())
               .set_(copy, value.storage_offset(), value.sizes(), value.strides());
  }
  return fork;
}

std::vector<Tensor> Executor::Outputs(const Progress& progress) const {
  ESPALIER_CHECK(progress.next == static_cast<int32_t>(graph_.ops.size()), "the run stands at op ",
                 progress.next, " of ", graph_.ops.size());
  std::vector<Tensor> outputs;
  for (const ValueId output : graph_.outputs)
    outputs.push_back(progress.slots[static_cast<size_t>(output)].toTensor());
  return outputs;
}

Tensor Forward(const Network& network, const Tensor& input) {
  const at::NoGradGuard no_grad;
  const Executor executor(network.graph);
  return executor.Run(executor.Bind(network.store), {input}).front();
}

}  // namespace espalier

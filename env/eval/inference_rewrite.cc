#include "env/eval/inference_rewrite.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <string>

#include "env/base/error.h"
#include "env/graph/memory_format.h"
#include "env/graph/schema_writes.h"

namespace espalier {
namespace {

const std::string& NameOf(const Op& op) { return op.handle.operator_name().name; }

/// Values an op writes in place, by its schema.
std::vector<ValueId> WrittenValues(const Op& op) {
  std::vector<ValueId> written;
  const auto& arguments = op.handle.schema().arguments();
  for (const Use& use : UsesOf(op)) {
    if (IsWritten(arguments[static_cast<size_t>(use.arg)])) written.push_back(use.value);
  }
  return written;
}

/// Two entries for an int[2] argument of which export may write one.
std::vector<int64_t> Pair(const c10::IValue& value) {
  std::vector<int64_t> items = value.toIntVector();
  if (items.size() == 1) items.push_back(items[0]);
  return items;
}

bool IsConstant(const Op& op, const std::string& argument) {
  const int index = op.ArgIndex(argument);
  return index >= 0 && std::holds_alternative<c10::IValue>(op.args[static_cast<size_t>(index)]);
}

void SetArg(Op& op, const std::string& argument, Arg value) {
  const int index = op.ArgIndex(argument);
  ESPALIER_CHECK(index >= 0, op.name, " has no argument ", argument);
  op.args[static_cast<size_t>(index)] = std::move(value);
}

bool HasOperator(const char* name, const char* overload) {
  return c10::Dispatcher::singleton().findSchema({name, overload}).has_value();
}

}  // namespace

InferenceRewrite::InferenceRewrite(Network network)
    : network_(std::move(network)),
      graph_(network_.graph),
      samples_(graph_.values.size()),
      removed_(graph_.ops.size(), false) {
  const at::NoGradGuard no_grad;
  for (const std::string& name : network_.store.CanonicalNames())
    network_.store.Set(name, network_.store.Get(name).detach());
  at::Device device = at::kCPU;
  for (const std::string& name : network_.store.CanonicalNames())
    device = network_.store.Get(name).device();
  std::vector<Tap> taps;
  for (size_t id = 0; id < graph_.values.size(); ++id)
    taps.push_back({static_cast<ValueId>(id), [this, id](const Tensor& t) { samples_[id] = t; }});
  std::vector<Tensor> inputs;
  for (const Tensor& input : SampleInputs(network_, 2)) inputs.push_back(input.to(device));
  const Executor executor(graph_);
  executor.Run(executor.Bind(network_.store), inputs, {.taps = taps});
}

std::vector<int32_t> InferenceRewrite::Readers(ValueId id) const {
  std::vector<int32_t> readers;
  for (size_t i = 0; i < graph_.ops.size(); ++i) {
    if (removed_[i]) continue;
    for (const Use& use : UsesOf(graph_.ops[i]))
      if (use.value == id) readers.push_back(static_cast<int32_t>(i));
  }
  return readers;
}

bool InferenceRewrite::IsOutput(ValueId id) const {
  return std::find(graph_.outputs.begin(), graph_.outputs.end(), id) != graph_.outputs.end();
}

int32_t InferenceRewrite::OnlyReader(ValueId id) const {
  const std::vector<int32_t> readers = Readers(id);
  return readers.size() == 1 && !IsOutput(id) ? readers.front() : -1;
}

std::optional<Tensor> InferenceRewrite::Stored(ValueId id) const {
  if (id == kNoValue) return std::nullopt;
  const std::string& target = graph_.values[static_cast<size_t>(id)].target;
  if (target.empty()) return std::nullopt;
  return network_.store.Get(target);
}

InferenceRewrite::Origin InferenceRewrite::OriginOf(ValueId stored) const {
  const std::string& target = graph_.values[static_cast<size_t>(stored)].target;
  const auto found = origins_.find(target);
  return found == origins_.end() ? Origin{network_.store.Canonical(target)} : found->second;
}

ValueId InferenceRewrite::AddStored(const std::string& name, const Tensor& tensor, Origin origin) {
  std::string target = name;
  for (int copy = 2; network_.store.Has(target); ++copy) target = Str(name, "_", copy);
  network_.store.Add(target, tensor, StoreKind::kConstant);
  origins_[target] = std::move(origin);
  graph_.values.push_back({"c_" + target, ValueKind::kConstant, target, -1});
  samples_.push_back(tensor);
  return static_cast<ValueId>(graph_.values.size() - 1);
}

bool InferenceRewrite::SharesMemory(ValueId a, ValueId b) const {
  if (a == b) return true;
  return sample(a).defined() && sample(b).defined() && sample(a).has_storage() &&
         sample(b).has_storage() && sample(a).storage().is_alias_of(sample(b).storage());
}

bool InferenceRewrite::WrittenBetween(ValueId id, int32_t first, int32_t last) const {
  for (int32_t i = first + 1; i < last; ++i) {
    if (removed_[static_cast<size_t>(i)]) continue;
    for (const ValueId written : WrittenValues(graph_.ops[static_cast<size_t>(i)]))
      if (SharesMemory(written, id)) return true;
  }
  return false;
}

/// True when the memory of `id` is a result's own and nobody reads it after op `position`.
bool InferenceRewrite::MayOverwrite(ValueId id, int32_t position) const {
  for (size_t other = 0; other < graph_.values.size(); ++other) {
    const auto value = static_cast<ValueId>(other);
    const Value& known = graph_.values[other];
    if (!SharesMemory(id, value) || known.producer >= position) continue;
    if (known.kind != ValueKind::kResult || IsOutput(value)) return false;
    for (const int32_t reader : Readers(value))
      if (reader > position) return false;
  }
  return true;
}

void InferenceRewrite::Remove(int32_t index) {
  removed_[static_cast<size_t>(index)] = true;
  ++fused_;
}

void InferenceRewrite::FoldBatchNorm() {
  for (size_t i = 0; i < graph_.ops.size(); ++i) {
    const Op& norm = graph_.ops[i];
    if (norm.target() != "aten::batch_norm") continue;
    const ValueId input = norm.ValueArg("input");
    if (input == kNoValue || OnlyReader(input) != static_cast<int32_t>(i)) continue;
    const int32_t producer = graph_.values[static_cast<size_t>(input)].producer;
    if (producer >= 0 && FoldInto(producer, static_cast<int32_t>(i)))
      Remove(static_cast<int32_t>(i));
  }
}

bool InferenceRewrite::FoldInto(int32_t producer, int32_t norm_index) {
  const Op& norm = op(norm_index);
  Op& layer = op(producer);
  if (NameOf(layer) != "aten::conv2d" && layer.target() != "aten::linear") return false;
  // Behind a linear layer of [B, T, C] batch_norm would normalise axis 1, not the outputs.
  if (layer.target() == "aten::linear" && sample(layer.outputs[0]).dim() != 2) return false;
  const auto weight = Stored(layer.ValueArg("weight"));
  const auto mean = Stored(norm.ValueArg("running_mean"));
  const auto variance = Stored(norm.ValueArg("running_var"));
  if (!weight || !mean || !variance) return false;
  const auto scale = Stored(norm.ValueArg("weight")), shift = Stored(norm.ValueArg("bias"));
  const auto bias = Stored(layer.ValueArg("bias"));
  if (!scale && norm.ValueArg("weight") != kNoValue) return false;  // computed, not stored
  if (!shift && norm.ValueArg("bias") != kNoValue) return false;
  if (!bias && layer.ValueArg("bias") != kNoValue) return false;

  // y = (w x + b - mean) f + shift with f = scale / sqrt(var + eps); folded in double.
  const auto wide = [](const Tensor& tensor) { return tensor.to(at::kDouble); };
  const double eps = norm.Constant("eps").toDouble();
  Tensor factor = (wide(*variance) + eps).rsqrt();  // [C_out]
  if (scale) factor = factor * wide(*scale);
  Tensor folded_bias = bias ? wide(*bias) - wide(*mean) : -wide(*mean);
  folded_bias = folded_bias * factor;
  if (shift) folded_bias = folded_bias + wide(*shift);
  std::vector<int64_t> per_row(static_cast<size_t>(weight->dim()), 1);
  per_row[0] = -1;
  const Tensor folded = wide(*weight) * factor.view(per_row);

  const Origin origin = OriginOf(layer.ValueArg("weight"));
  SetArg(layer, "weight",
         AddStored(layer.name + ".folded_weight", folded.to(weight->scalar_type()), origin));
  SetArg(layer, "bias",
         AddStored(layer.name + ".folded_bias", folded_bias.to(weight->scalar_type()),
                   {.source = origin.source, .rows_only = true}));
  layer.outputs = norm.outputs;
  graph_.values[static_cast<size_t>(layer.outputs[0])].producer = producer;
  return true;
}

void InferenceRewrite::UseChannelsLast() {
  for (size_t i = 0; i < graph_.ops.size(); ++i) {
    if (removed_[i] || NameOf(graph_.ops[i]) != "aten::conv2d") continue;
    const auto weight = Stored(graph_.ops[i].ValueArg("weight"));
    if (!weight || weight->is_contiguous(at::MemoryFormat::ChannelsLast)) continue;
    SetArg(graph_.ops[i], "weight",
           AddStored(graph_.ops[i].name + ".channels_last_weight",
                     weight->contiguous(at::MemoryFormat::ChannelsLast),
                     OriginOf(graph_.ops[i].ValueArg("weight"))));
  }
}

void InferenceRewrite::FuseConvolutions() {
  if (!HasOperator("mkldnn::_convolution_pointwise", "") ||
      !HasOperator("mkldnn::_convolution_pointwise_", "binary"))
    return;  // a LibTorch without oneDNN
  for (size_t i = 0; i < graph_.ops.size(); ++i)
    if (!removed_[i] && CanFuse(graph_.ops[i]) && !FuseAddition(static_cast<int32_t>(i)))
      FuseActivation(static_cast<int32_t>(i));
}

bool InferenceRewrite::CanFuse(const Op& conv) const {
  if (conv.target() != "aten::conv2d") return false;
  for (const char* argument : {"stride", "padding", "dilation", "groups"})
    if (!IsConstant(conv, argument)) return false;
  const auto weight = Stored(conv.ValueArg("weight"));
  const Tensor& output = sample(conv.outputs[0]);
  return weight && weight->is_cpu() && weight->scalar_type() == at::kFloat && output.defined() &&
         output.dim() == 4 && output.scalar_type() == at::kFloat && output.numel() > 0;
}

std::optional<InferenceRewrite::Activation> InferenceRewrite::ActivationOf(int32_t index) const {
  if (index < 0) return std::nullopt;
  const Op& op = graph_.ops[static_cast<size_t>(index)];
  const std::string& name = NameOf(op);
  Activation found{"relu", c10::List<std::optional<at::Scalar>>()};
  if (name == "aten::relu" || name == "aten::relu_") return found;
  found.name = "hardtanh";
  if (name == "aten::relu6" || name == "aten::relu6_") {
    found.scalars.push_back(at::Scalar(0.0));
    found.scalars.push_back(at::Scalar(6.0));
    return found;
  }
  if (name != "aten::hardtanh" && name != "aten::hardtanh_") return std::nullopt;
  for (const char* bound : {"min_val", "max_val"}) {
    if (!IsConstant(op, bound)) return std::nullopt;
    found.scalars.push_back(at::Scalar(op.Constant(bound).toScalar().toDouble()));
  }
  return found;
}

/// The arguments X (left to the caller), W, B, padding, stride, dilation, groups.
void InferenceRewrite::AppendConvolution(std::vector<Arg>& args, const Op& conv) const {
  args.emplace_back(conv.ValueArg("weight"));
  const ValueId bias = conv.ValueArg("bias");
  args.push_back(bias == kNoValue ? Arg(c10::IValue()) : Arg(bias));
  for (const char* argument : {"padding", "stride", "dilation"})
    args.emplace_back(c10::IValue(Pair(conv.Constant(argument))));
  args.emplace_back(conv.Constant("groups"));
}

void InferenceRewrite::FuseActivation(int32_t index) {
  Op& conv = op(index);
  const int32_t next = OnlyReader(conv.outputs[0]);
  const auto activation = ActivationOf(next);
  if (!activation) return;
  std::vector<Arg> args = {conv.ValueArg("input")};
  AppendConvolution(args, conv);
  args.emplace_back(c10::IValue(activation->name));
  args.emplace_back(c10::IValue(activation->scalars));
  args.emplace_back(c10::IValue());
  conv.handle = FindOperator("mkldnn::_convolution_pointwise", "");
  conv.args = std::move(args);
  conv.outputs = op(next).outputs;
  graph_.values[static_cast<size_t>(conv.outputs[0])].producer = index;
  Remove(next);
}

std::optional<InferenceRewrite::Addition> InferenceRewrite::AdditionOf(int32_t conv_index) const {
  const Op& conv = graph_.ops[static_cast<size_t>(conv_index)];
  const ValueId branch = conv.outputs[0];
  Addition addition;
  addition.op = OnlyReader(branch);
  if (addition.op < 0) return std::nullopt;
  const Op& op = graph_.ops[static_cast<size_t>(addition.op)];
  if (kept_.contains(op.name)) return std::nullopt;
  const bool scatter = op.target() == "aten::index_add";
  addition.scatter = scatter;
  if (!scatter && op.target() != "aten::add.Tensor" && op.target() != "aten::add_.Tensor")
    return std::nullopt;
  if (!IsConstant(op, "alpha") || op.Constant("alpha").toScalar().toDouble() != 1)
    return std::nullopt;
  const ValueId self = op.ValueArg("self");
  const ValueId other = op.ValueArg(scatter ? "source" : "other");
  if (self == kNoValue || other == kNoValue || self == other) return std::nullopt;
  addition.shortcut = self == branch ? other : self;
  // The addition has to be where the later of its two operands already is.
  if (graph_.values[static_cast<size_t>(addition.shortcut)].producer > conv_index &&
      CanFuse(graph_.ops[static_cast<size_t>(
          graph_.values[static_cast<size_t>(addition.shortcut)].producer)]) &&
      !scatter && OnlyReader(addition.shortcut) == addition.op)
    return std::nullopt;  // the other operand is a convolution too: fuse that one, it comes later
  if (!sample(addition.shortcut).defined() || sample(addition.shortcut).scalar_type() != at::kFloat)
    return std::nullopt;
  if (!scatter) {
    if (sample(addition.shortcut).sizes() != sample(branch).sizes()) return std::nullopt;
    return addition;
  }
  const auto rows = Stored(op.ValueArg("index"));
  if (self == branch || !rows || !IsConstant(op, "dim") || op.Constant("dim").toInt() != 1 ||
      conv.Constant("groups").toInt() != 1)
    return std::nullopt;
  const int64_t kept = rows->numel(), full = sample(addition.shortcut).size(1);
  // oneDNN computes blocks of 16 channels; zero rows up to 4x cost less than a pass over the trunk.
  constexpr int64_t kMostSpread = 4, kNarrow = 64;
  if (kept * kMostSpread < full && full > kNarrow) return std::nullopt;
  if (kept != full || !at::equal(*rows, at::arange(full, rows->options()))) addition.index = *rows;
  return addition;
}

/// Gives the convolution one output row for each channel of the trunk, zero where it adds nothing.
void InferenceRewrite::SpreadRows(int32_t index, const Addition& addition) {
  Op& conv = op(index);
  const int64_t full = sample(addition.shortcut).size(1);
  for (const char* argument : {"weight", "bias"}) {
    const auto rows = Stored(conv.ValueArg(argument));  // [kept, ...]
    if (!rows) continue;
    std::vector<int64_t> sizes = rows->sizes().vec();
    sizes[0] = full;
    Tensor spread = at::zeros(sizes, rows->options());
    spread.index_add_(0, addition.index, *rows);
    if (spread.dim() == 4) spread = spread.contiguous(at::MemoryFormat::ChannelsLast);
    SetArg(conv, argument, AddStored(Str(conv.name, ".spread_", argument), spread, {}));
  }
}

/// Without this a cut of the rows would leave fewer than the sum takes.
void InferenceRewrite::KeepRows(int32_t index) {
  Op& conv = op(index);
  for (const char* argument : {"weight", "bias"}) {
    const auto rows = Stored(conv.ValueArg(argument));
    if (!rows) continue;
    Origin origin = OriginOf(conv.ValueArg(argument));
    origin.keeps_rows = true;
    SetArg(conv, argument, AddStored(Str(conv.name, ".all_rows_", argument), *rows, origin));
  }
}

bool InferenceRewrite::FuseAddition(int32_t index) {
  const auto addition = AdditionOf(index);
  if (!addition) return false;
  const ValueId input = op(index).ValueArg("input");
  // The call takes the addition's place: its input must still hold what the convolution read.
  if (input == kNoValue || WrittenBetween(input, index, addition->op)) return false;
  if (addition->index.defined())
    SpreadRows(index, *addition);
  else if (addition->scatter)
    KeepRows(index);
  const Op conv = op(index);
  Op& sum = op(addition->op);
  const int32_t next = OnlyReader(sum.outputs[0]);
  const auto activation = ActivationOf(next);

  const bool in_place =
      !SharesMemory(addition->shortcut, input) && MayOverwrite(addition->shortcut, addition->op);
  std::vector<Arg> args;
  if (in_place)
    args = {addition->shortcut, input};
  else
    args = {input, addition->shortcut};
  AppendConvolution(args, conv);
  args.emplace_back(c10::IValue("add"));
  args.emplace_back(c10::IValue());  // alpha = 1
  args.push_back(activation ? c10::IValue(activation->name) : c10::IValue());
  args.emplace_back(
      c10::IValue(activation ? activation->scalars : c10::List<std::optional<at::Scalar>>()));
  args.emplace_back(c10::IValue());
  sum.handle = FindOperator(
      in_place ? "mkldnn::_convolution_pointwise_" : "mkldnn::_convolution_pointwise", "binary");
  sum.args = std::move(args);
  sum.module_path = conv.module_path;
  sum.name = conv.name;  // literals of the convolution are found by its name
  Remove(index);
  if (activation) {
    sum.outputs = op(next).outputs;
    graph_.values[static_cast<size_t>(sum.outputs[0])].producer = addition->op;
    Remove(next);
  }
  return true;
}

void InferenceRewrite::CastTo(at::ScalarType dtype) {
  for (const std::string& name : network_.store.CanonicalNames()) {
    const Tensor& tensor = network_.store.Get(name);
    if (tensor.is_floating_point()) network_.store.Set(name, tensor.to(dtype));
  }
}

void InferenceRewrite::ApplyAll(at::ScalarType dtype) {
  FoldBatchNorm();
  UseChannelsLast();
  const std::vector<std::string> names = network_.store.CanonicalNames();
  if (names.empty() || network_.store.Get(names.front()).is_cpu()) FuseConvolutions();
  if (dtype != at::kFloat) CastTo(dtype);
}

Network InferenceRewrite::Take() {
  std::vector<Op> kept;
  for (size_t i = 0; i < graph_.ops.size(); ++i)
    if (!removed_[i]) kept.push_back(std::move(graph_.ops[i]));
  graph_.ops = std::move(kept);
  for (size_t i = 0; i < graph_.ops.size(); ++i)
    for (const ValueId output : graph_.ops[i].outputs)
      graph_.values[static_cast<size_t>(output)].producer = static_cast<int32_t>(i);
  samples_.clear();
  Validate(graph_);
  return std::move(network_);
}

Tensor PrepareInput(const Tensor& input, at::ScalarType dtype) {
  const Tensor ready = ChannelsLast(input);
  return dtype != at::kFloat && ready.is_floating_point() ? ready.to(dtype) : ready;
}

}  // namespace espalier

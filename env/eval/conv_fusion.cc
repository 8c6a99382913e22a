#include <ATen/ATen.h>

#include "env/base/error.h"
#include "env/eval/inference_rewrite.h"

// Convolutions with what follows them, as one call of oneDNN.

namespace espalier {
namespace {

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

bool HasOperator(const char* name, const char* overload) {
  return c10::Dispatcher::singleton().findSchema({name, overload}).has_value();
}

}  // namespace

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

}  // namespace espalier

#include <ATen/ATen.h>

#include <algorithm>
#include <set>

#include "env/eval/inference_rewrite.h"

// Ops that hand on what they get: copies (what a residual branch that was cut off leaves in the
// place of its addition), dropout, and ReLU of what has just come out of one.

namespace espalier {
namespace {

bool IsRelu(const std::string& name) { return name == "aten::relu" || name == "aten::relu_"; }

void ReplaceUses(Op& op, ValueId from, ValueId to) {
  for (Arg& arg : op.args) {
    if (auto* id = std::get_if<ValueId>(&arg); id != nullptr && *id == from) *id = to;
    if (auto* list = std::get_if<ValueList>(&arg)) std::ranges::replace(list->ids, from, to);
  }
}

}  // namespace

/// What op `index` hands on; kNoValue when it does more than that.
ValueId InferenceRewrite::HandedOn(int32_t index) const {
  static const std::set<std::string> kSame = {"aten::alias", "aten::detach", "aten::dropout",
                                              "aten::dropout_", "aten::feature_dropout"};
  const Op& op = graph_.ops[static_cast<size_t>(index)];
  const std::string& name = NameOf(op);
  if (kSame.contains(name)) return std::get<ValueId>(op.args[0]);
  if (op.target() == "aten::clone" && op.Constant("memory_format").isNone())
    return op.ValueArg("self");
  if (!IsRelu(name)) return kNoValue;
  const ValueId input = op.ValueArg("self");
  const int32_t producer =
      input == kNoValue ? -1 : graph_.values[static_cast<size_t>(input)].producer;
  if (producer < 0 || !IsRelu(NameOf(graph_.ops[static_cast<size_t>(producer)])) ||
      WrittenBetween(input, producer, index))
    return kNoValue;
  return input;
}

void InferenceRewrite::DropIdle() {
  const auto count = static_cast<int32_t>(graph_.ops.size());
  for (int32_t i = 0; i < count; ++i) {
    const ValueId output = op(i).outputs.empty() ? kNoValue : op(i).outputs[0];
    if (output == kNoValue || IsOutput(output) || kept_.contains(op(i).name)) continue;
    const ValueId input = HandedOn(i);
    if (input == kNoValue || !sample(input).defined() || !sample(output).defined() ||
        sample(input).strides() != sample(output).strides())
      continue;
    if (!SharesMemory(input, output)) {
      const bool written = WrittenBetween(input, i, count) || WrittenBetween(output, i, count);
      if (written && !MayOverwrite(input, i)) continue;
      same_memory_[MemoryOf(output)] = MemoryOf(input);
    }
    for (Op& reader : graph_.ops) ReplaceUses(reader, output, input);
    removed_[static_cast<size_t>(i)] = true;
  }
}

}  // namespace espalier

#include "env/space/constants.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "env/graph/executor.h"

namespace espalier {

namespace {

/// sym_size(x, 0) of an input whose first axis is the batch.
bool IsBatchSize(const Graph& graph, const Op& op) {
  if (op.target() != "aten::sym_size.int" || op.Constant("dim").toInt() != 0) return false;
  const ValueId value = op.ValueArg("self");
  return std::ranges::any_of(graph.inputs, [&](const InputSpec& input) {
    return input.value == value && input.dynamic_batch;
  });
}

}  // namespace

std::optional<std::set<int32_t>> OpsOfConstant(const Graph& graph, ValueId value, bool batch) {
  std::set<int32_t> ops;
  for (std::vector<ValueId> open = {value}; !open.empty();) {
    const Value& next = graph.values[static_cast<size_t>(open.back())];
    open.pop_back();
    if (!next.target.empty()) continue;
    if (next.producer < 0) return std::nullopt;
    const Op& op = graph.ops[static_cast<size_t>(next.producer)];
    if (op.handle.operator_name().name.ends_with("_") ||
        op.handle.hasTag(at::Tag::nondeterministic_seeded))
      return std::nullopt;
    if (!ops.insert(next.producer).second) continue;
    if (batch && IsBatchSize(graph, op)) continue;
    for (const Use& use : UsesOf(op)) open.push_back(use.value);
  }
  return ops;
}

std::set<std::string> SourcesOf(const Network& network, const std::set<int32_t>& ops) {
  std::set<std::string> names;
  for (const int32_t op : ops)
    for (const Use& use : UsesOf(network.graph.ops[static_cast<size_t>(op)]))
      if (const auto& target = network.graph.values[static_cast<size_t>(use.value)].target;
          !target.empty())
        names.insert(network.store.Canonical(target));
  return names;
}

Tensor Evaluate(const Network& network, ValueId value, const std::set<int32_t>& ops,
                int64_t batch) {
  Graph part{.ops = {},
             .values = network.graph.values,
             .inputs = network.graph.inputs,
             .outputs = {value}};
  for (const int32_t op : ops) part.ops.push_back(network.graph.ops[static_cast<size_t>(op)]);
  const Executor executor(part);
  const at::NoGradGuard no_grad;
  return executor.Run(executor.Bind(network.store), SampleInputs(network, batch))
      .front()
      .contiguous()
      .clone();
}

Tensor OfOneSample(const Network& network, ValueId value, const std::set<int32_t>& ops) {
  const Tensor one = Evaluate(network, value, ops, 1), three = Evaluate(network, value, ops, 3);
  const bool repeats = one.dim() > 0 && one.size(0) == 1 && three.dim() == one.dim() &&
                       three.size(0) == 3 && at::equal(three, one.expand_as(three));
  return repeats ? one : Tensor();
}

}  // namespace espalier

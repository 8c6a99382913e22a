#include "env/space/constants.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "env/graph/executor.h"

namespace espalier {

std::optional<std::set<int32_t>> OpsOfConstant(const Graph& graph, ValueId value) {
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

Tensor Evaluate(const Network& network, ValueId value, const std::set<int32_t>& ops) {
  Graph part{.ops = {}, .values = network.graph.values, .inputs = {}, .outputs = {value}};
  for (const int32_t op : ops) part.ops.push_back(network.graph.ops[static_cast<size_t>(op)]);
  const Executor executor(part);
  const at::NoGradGuard no_grad;
  return executor.Run(executor.Bind(network.store), {}).front().contiguous().clone();
}

}  // namespace espalier

#include "env/space/constants.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <set>

#include "env/graph/executor.h"

namespace espalier {

Tensor ConstantValue(const Network& network, ValueId value) {
  const Graph& graph = network.graph;
  std::set<int32_t> needed;
  for (std::vector<ValueId> open = {value}; !open.empty();) {
    const int32_t producer = graph.values[static_cast<size_t>(open.back())].producer;
    open.pop_back();
    if (producer < 0) return {};
    const Op& op = graph.ops[static_cast<size_t>(producer)];
    if (op.handle.operator_name().name.ends_with("_") ||
        op.handle.hasTag(at::Tag::nondeterministic_seeded))
      return {};
    if (!needed.insert(producer).second) continue;
    for (const Use& use : UsesOf(op)) open.push_back(use.value);
  }
  Graph part{.ops = {}, .values = graph.values, .inputs = {}, .outputs = {value}};
  for (const int32_t op : needed) part.ops.push_back(graph.ops[static_cast<size_t>(op)]);
  const Executor executor(part);
  const at::NoGradGuard no_grad;
  return executor.Run(executor.Bind(network.store), {}).front().contiguous().clone();
}

}  // namespace espalier

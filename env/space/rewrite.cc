#include "env/space/rewrite.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "env/base/error.h"

namespace espalier {

ValueId AddStored(Network& network, const std::string& name, const Tensor& tensor, StoreKind kind) {
  std::string stored = name;
  for (int copy = 2; network.store.Has(stored); ++copy) stored = Str(name, "_", copy);
  network.store.Add(stored, tensor, kind);
  const bool is_parameter = kind == StoreKind::kParameter;
  std::string value_name = (is_parameter ? "p_" : "b_") + stored;
  std::replace(value_name.begin(), value_name.end(), '.', '_');
  network.graph.values.push_back(
      {value_name, is_parameter ? ValueKind::kParameter : ValueKind::kBuffer, stored, -1});
  return static_cast<ValueId>(network.graph.values.size() - 1);
}

void RemoveOps(Graph& graph, const std::vector<bool>& gone) {
  std::vector<Op> left;
  for (size_t i = 0; i < graph.ops.size(); ++i) {
    for (const ValueId output : graph.ops[i].outputs)
      graph.values[static_cast<size_t>(output)].producer =
          gone[i] ? -1 : static_cast<int32_t>(left.size());
    if (!gone[i]) left.push_back(std::move(graph.ops[i]));
  }
  graph.ops = std::move(left);
}

void RemoveStored(Network& network, const std::function<bool(const std::string&)>& is_gone) {
  for (Value& value : network.graph.values)
    if (!value.target.empty() && is_gone(value.target)) {
      value.kind = ValueKind::kResult;
      value.target.clear();
    }
  ParameterStore left;
  for (const std::string& name : network.store.names()) {
    if (is_gone(name)) continue;
    const std::string& canonical = network.store.Canonical(name);
    if (canonical == name)
      left.Add(name, network.store.Get(name), network.store.Kind(name));
    else
      left.Tie(name, canonical);
  }
  network.store = std::move(left);
}

}  // namespace espalier

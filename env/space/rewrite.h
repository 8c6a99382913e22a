#pragma once

#include <functional>
#include <string>
#include <vector>

#include "env/graph/network.h"

namespace espalier {

/// A new stored tensor of a network, named `name` or `name_2`, `name_3` ... where that is taken,
/// and the value that reads it.
ValueId AddStored(Network& network, const std::string& name, const Tensor& tensor, StoreKind kind);
/// Takes ops out of a graph.
void RemoveOps(Graph& graph, const std::vector<bool>& gone);
/// Takes stored tensors out of a network in which no op reads them.
void RemoveStored(Network& network, const std::function<bool(const std::string&)>& is_gone);

}  // namespace espalier

#pragma once

#include <optional>
#include <set>

#include "env/graph/network.h"

namespace espalier {

/// The ops that make `value` when it is the same in every run: of literals and, where `stored`, of
/// stored tensors. Nothing for what follows from an input or from chance, or is written in place.
std::optional<std::set<int32_t>> OpsOfConstant(const Graph& graph, ValueId value, bool stored);
/// What these ops make.
Tensor Evaluate(const Network& network, ValueId value, const std::set<int32_t>& ops);

}  // namespace espalier

#pragma once

#include <optional>
#include <set>
#include <string>

#include "env/graph/network.h"

namespace espalier {

/// The ops that make `value` of literals and stored tensors alone, the same in every run. Nothing
/// for what follows from an input or from chance, or is written in place.
/// batch: the number of samples counts as a literal.
std::optional<std::set<int32_t>> OpsOfConstant(const Graph& graph, ValueId value,
                                               bool batch = false);
/// Stored tensors that these ops read, by canonical name.
std::set<std::string> SourcesOf(const Network& network, const std::set<int32_t>& ops);
/// What these ops make for so many samples.
Tensor Evaluate(const Network& network, ValueId value, const std::set<int32_t>& ops,
                int64_t batch = 1);
/// What they repeat for every sample, once: [1, ...]. Undefined where samples differ.
Tensor OfOneSample(const Network& network, ValueId value, const std::set<int32_t>& ops);

}  // namespace espalier

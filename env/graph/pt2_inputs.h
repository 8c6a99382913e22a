#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "env/graph/network.h"

namespace espalier::pt2 {

/// What the archive records about one tensor input: `meta` is its entry in tensor_values. Open
/// sizes are noted in graph.symbols; the first one found on axis 0 becomes the batch.
/// Errors   kModel for dtypes we do not have and for negative sizes.
InputSpec InputOf(const std::string& name, const nlohmann::json& meta, Graph& graph);

/// Gives the inputs the examples the archive holds: `pickle` is what torch.save made of the
/// arguments. Examples that do not fit are left out, with a warning: they only serve tracing.
void AttachSamples(Network& network, const std::string& pickle);

/// The symbol of a size that depends on data ("u0"), or "": `meta` as above.
std::string DataDependentSize(const nlohmann::json& meta);

}  // namespace espalier::pt2

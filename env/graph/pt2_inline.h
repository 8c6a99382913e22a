#pragma once

#include <nlohmann/json_fwd.hpp>

namespace espalier::pt2 {

/// Puts the bodies of sub-graphs that only switch gradients or autocasting off in place of the
/// calls: torch.no_grad() and torch.autocast(enabled=False) inside of forward become such calls.
/// `module` is the archive's "graph_module". Sub-graphs of other kinds (conditions, loops) stay.
/// Errors   kModel for calls whose arguments do not fit their body.
void InlineSubgraphs(nlohmann::json& module);

}  // namespace espalier::pt2

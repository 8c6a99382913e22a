#pragma once

#include <nlohmann/json.hpp>

#include <vector>

#include "env/cost/cost.h"
#include "env/space/space.h"

namespace espalier {

/// What each group governs: the cost with all units minus the cost with the fewest of that group
/// that may stay (one a block), everything else full. Groups that multiply each other count what
/// they share twice: the sum over groups is more than the network. [groups]
std::vector<Cost> GovernedCosts(const CostModel& cost);

/// The cost when every group keeps the fewest units that may stay: no budget goes below.
Cost LeastCost(const CostModel& cost, Convention convention = Convention::kCanonical);

/// What `inspect --json` prints (docs/formats.md): groups with their members and what they govern,
/// pinned axes with reasons, cost by convention, operators that are not counted. indices: also
/// which coordinates of each member belong to which unit.
nlohmann::ordered_json SpaceToJson(const Space& space, const CostModel& cost, bool indices = false);

/// [{"parameter", "axis", "count", "reason"}].
nlohmann::ordered_json PinsToJson(const Space& space);

const char* RoleName(MemberRole role);

}  // namespace espalier

#pragma once

#include <cstdint>
#include <vector>

namespace espalier {

/// Fronts of points whose objectives are all to be large: result[i] = rank, 0 = dominated by
/// nobody.
std::vector<int64_t> NonDominatedRanks(const std::vector<std::vector<double>>& objectives);
/// Crowding distance of each point within `objectives` (one front); infinite at the ends.
std::vector<double> CrowdingDistances(const std::vector<std::vector<double>>& objectives);

}  // namespace espalier

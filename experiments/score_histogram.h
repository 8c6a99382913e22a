#pragma once

#include <nlohmann/json.hpp>

#include <vector>

#include "env/space/plan.h"

namespace espalier {

/// Counts of scores in 20 equal bins between the least and the largest, kept and removed apart;
/// null when all are equal. scores: [groups][units].
nlohmann::ordered_json ScoreHistogram(const std::vector<std::vector<double>>& scores,
                                      const Selection& selection);

}  // namespace espalier

#pragma once

#include <string>
#include <vector>

#include "search/strategy.h"

namespace espalier {

struct RandomSearchConfig {
  std::string ratios = "uniform";  ///< uniform: one keep ratio; random: one drawn per group
  double least = 0.1;              ///< smallest ratio drawn before projection; in (0, 1]
};
Schema Describe(RandomSearchConfig& config);

/// Random units under the budget: the control that shows what choosing units is worth.
///
/// Random   ratios, then units, group by group from the stream "random".
class RandomSearch final : public Strategy {
 public:
  explicit RandomSearch(const RandomSearchConfig& config) : config_(config) {}
  SearchResult Run(const Environment& environment, SearchContext& context) const override;

 private:
  const RandomSearchConfig config_;
};

/// Random scores, one per unit of each group; with SelectTop they choose random units at any
/// counts.
std::vector<std::vector<double>> RandomScores(const Space& space, Rng& rng);

}  // namespace espalier

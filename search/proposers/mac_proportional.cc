#include "search/proposers/mac_proportional.h"

#include <algorithm>
#include <cmath>

#include "search/search_loop.h"

namespace espalier {

Schema Describe(MacProportionalConfig& config) {
  Schema schema;
  schema.Add("exponent", &config.exponent,
             "ratio ~ (MACs that depend on the group)^-exponent; 0 = uniform", {.low = 0});
  return schema;
}

std::vector<Proposal> MacProportional::Ask(const SearchProblem& problem, Rng&) const {
  const std::vector<double> full(problem.cost.units().begin(), problem.cost.units().end());
  const std::vector<double> slope =
      problem.cost.Gradient(CostKind::kMacs, problem.budget.convention(), full);
  std::vector<double> weight;
  for (size_t g = 0; g < full.size(); ++g)
    weight.push_back(std::pow(std::max(slope[g] * full[g], 1.0), -config_.exponent));
  const double largest = *std::max_element(weight.begin(), weight.end());
  Proposal proposal;
  for (size_t g = 0; g < full.size(); ++g)
    proposal.decision.push_back(std::clamp(weight[g] / largest, problem.low[g], problem.high[g]));
  return {proposal};
}

void MacProportional::Tell(const SearchProblem&, std::span<const Trial> batch) {
  for (const Trial& trial : batch) done_ = done_ || trial.origin == kName;
}

ESPALIER_REGISTER_PROPOSER(MacProportional, MacProportionalConfig,
                           {.name = "mac_proportional",
                            .summary = "cuts most where most multiply-adds are; one candidate",
                            .source = "baseline",
                            .facts = {kNeedsData, "deterministic"}})

}  // namespace espalier

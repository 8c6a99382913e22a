#include "docs/examples/hill_climber.h"

#include "search/proposers/points.h"
#include "search/search_loop.h"

namespace espalier {

Schema Describe(HillClimberConfig& config) {
  Schema schema;
  schema.Add("neighbours", &config.neighbours, "candidates tried at a time", {.low = 1});
  schema.Add("step", &config.step, "standard deviation of a change of a ratio's logarithm",
             RealRange{.low = 0, .open_low = true});
  return schema;
}

std::vector<Proposal> HillClimber::Ask(const SearchProblem& problem, Rng& rng) const {
  std::vector<Proposal> batch;
  for (int64_t i = 0; i < config_.neighbours; ++i)
    batch.push_back({.decision = Perturb(problem, best_, /*changes=*/2, config_.step, rng)});
  return batch;
}

void HillClimber::Tell(const SearchProblem& problem, std::span<const Trial> batch) {
  for (const Trial& trial : batch) {
    if (trial.failed || trial.dropped) continue;
    if (!best_.empty() && trial.value <= value_) continue;
    best_ = problem.Point(trial);
    value_ = trial.value;
  }
  if (best_.empty()) best_.assign(problem.groups(), 0.5);  // even the uniform ratio failed
}

ESPALIER_REGISTER_PROPOSER(HillClimber, HillClimberConfig,
                           {.name = "hill_climber",
                            .summary = "changes of the best so far, uphill only",
                            .source = "textbook; docs/add_strategy.md",
                            .facts = {kNeedsData, "deterministic"}})

}  // namespace espalier

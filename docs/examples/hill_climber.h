#pragma once

#include "search/proposer.h"

namespace espalier {

struct HillClimberConfig {
  int64_t neighbours = 6;  ///< candidates tried around the best one at a time
  double step = 0.2;       ///< standard deviation of a change of a ratio's logarithm
};
Schema Describe(HillClimberConfig& config);

/// Tries changes of the best candidate so far and moves when one of them is better.
///
/// Source   textbook hill climbing; the example of docs/add_strategy.md
class HillClimber final : public Proposer {
 public:
  static constexpr const char* kName = "hill_climber";
  explicit HillClimber(const HillClimberConfig& config) : config_(config) {}
  std::vector<Proposal> Ask(const SearchProblem& problem, Rng& rng) const override;
  void Tell(const SearchProblem& problem, std::span<const Trial> batch) override;
  int64_t Wanted(int64_t) const override { return 1; }  // only the best of a batch matters

 private:
  const HillClimberConfig config_;
  std::vector<double> best_;  // kept ratios; empty before the first trial
  double value_ = 0;
};

}  // namespace espalier

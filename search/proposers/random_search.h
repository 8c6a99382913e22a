#pragma once

#include "search/proposer.h"

namespace espalier {

struct RandomProposerConfig {
  double least = 0.1;  ///< smallest ratio drawn, before projection to the budget
  int64_t batch = 16;
};
Schema Describe(RandomProposerConfig& config);

/// Independent keep ratios: what every search has to beat at equal evaluations.
///
/// Source   Bergstra, Bengio, "Random Search for Hyper-Parameter Optimization", JMLR 13, 2012.
class RandomProposer final : public Proposer {
 public:
  static constexpr const char* kName = "random_search";
  explicit RandomProposer(const RandomProposerConfig& config) : config_(config) {}
  std::vector<Proposal> Ask(const SearchProblem& problem, Rng& rng) const override;
  void Tell(const SearchProblem&, std::span<const Trial>) override {}
  int64_t Wanted(int64_t) const override { return 1; }

 private:
  const RandomProposerConfig config_;
};

}  // namespace espalier

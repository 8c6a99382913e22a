#pragma once

#include "search/proposer.h"

namespace espalier {

struct GreedyConfig {
  double fidelity = 0.25;  ///< fraction of the samples a step's candidates get
  int64_t steps = 0;       ///< from the uncut network to the budget; 0 = what the evaluations allow
};
Schema Describe(GreedyConfig& config);

/// Step by step to the budget: every group alone is shrunk until one step of the cost is saved or
/// half of it is gone, and those that lose the least per saved cost stay shrunk until the step is
/// saved. Where every group can save a whole step, that is one group a step.
///
/// Source   Yang et al., "NetAdapt", ECCV 2018, arXiv:1804.03230, algorithm 1.
/// Deviates No fine-tuning between the steps; the resource is the bound that is furthest away;
///          several groups a step where the evaluations allow fewer steps than one group each would
///          take. When they run out before the budget is met, projection does the rest.
class Greedy final : public Proposer {
 public:
  static constexpr const char* kName = "greedy";
  explicit Greedy(const GreedyConfig& config) : config_(config) {}
  std::vector<Proposal> Ask(const SearchProblem& problem, Rng& rng) const override;
  void Tell(const SearchProblem& problem, std::span<const Trial> batch) override;
  int64_t Wanted(int64_t batch) const override { return 1 + batch / 4; }
  bool Done(const SearchProblem&) const override { return done_; }

 private:
  /// Largest share of the way to its bound that is still to go: 1 at the uncut network, <= 0
  /// within.
  static double Excess(const SearchProblem& problem, const std::vector<int64_t>& kept);
  double StepSize(const SearchProblem& problem) const;
  /// Of a step's candidates, so that at least one step fits into the evaluations.
  double Fidelity(const SearchProblem& problem) const;
  /// Evaluations a step takes: the network as it stands, and every group shrunk.
  double RoundCost(const SearchProblem& problem) const;
  /// The nearest counts with group g shrunk until `excess` is reached, or halved; empty when that
  /// saves nothing.
  std::vector<int64_t> Shrunk(const SearchProblem& problem, size_t group, double excess) const;

  const GreedyConfig config_;
  std::vector<int64_t> kept_;
  double used_ = 0;     ///< evaluations
  bool stuck_ = false;  ///< a whole step's candidates failed
  bool done_ = false;
};

}  // namespace espalier

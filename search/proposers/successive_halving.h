#pragma once

#include "search/proposer.h"

namespace espalier {

struct SuccessiveHalvingConfig {
  int64_t candidates = 64;  ///< in the first rung of a bracket
  double eta = 2;           ///< one in eta goes on to the next rung, with eta times the samples
  int64_t rungs = 4;
  double local =
      0.5;  ///< share of a later bracket's candidates that are changes of the best so far
  double least = 0.1;  ///< smallest ratio drawn
};
Schema Describe(SuccessiveHalvingConfig& config);

/// Many candidates on few samples, the better ones on more, the best on all; bracket after bracket.
///
/// Source   Jamieson, Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter
///          Optimization", AISTATS 2016, arXiv:1502.07943, figure 3.
/// Deviates Later brackets draw part of their candidates near the best so far.
class SuccessiveHalving final : public Proposer {
 public:
  static constexpr const char* kName = "successive_halving";
  explicit SuccessiveHalving(const SuccessiveHalvingConfig& config) : config_(config) {}
  std::vector<Proposal> Ask(const SearchProblem& problem, Rng& rng) const override;
  void Tell(const SearchProblem& problem, std::span<const Trial> batch) override;
  /// Those that go on are told apart; the others may leave earlier still.
  int64_t Wanted(int64_t batch) const override;

 private:
  double Fidelity(int64_t rung) const;
  const SuccessiveHalvingConfig config_;
  int64_t rung_ = 0;                                   // of the next batch
  std::vector<Decision> going_on_;                     // its candidates, when rung_ > 0
  std::vector<std::pair<double, Decision>> finished_;  // whole evaluations
};

}  // namespace espalier

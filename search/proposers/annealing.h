#pragma once

#include "search/proposer.h"

namespace espalier {

struct AnnealingConfig {
  int64_t start = 12;        ///< random candidates at the start: they set the scale of temperature
  int64_t batch = 4;         ///< neighbours tried side by side
  double temperature = 0.5;  ///< at the start, in standard deviations of the first values
  double cooling = 0.01;     ///< temperature at the end as a fraction of that at the start
  double changes = 2;        ///< ratios a step changes, on average
  double sigma = 0.3;        ///< of the logarithm of a changed ratio
  double least = 0.1;        ///< smallest ratio drawn at the start
};
Schema Describe(AnnealingConfig& config);

/// Simulated annealing on keep ratios: a worse neighbour is taken with chance exp(difference / T),
/// T falling geometrically over the evaluations.
///
/// Source   Kirkpatrick, Gelatt, Vecchi, "Optimization by Simulated Annealing", Science 220, 1983.
/// Random   acceptance draws depend on seed and number of the trial, so that telling again repeats
///          them.
class Annealing final : public Proposer {
 public:
  static constexpr const char* kName = "annealing";
  explicit Annealing(const AnnealingConfig& config) : config_(config) {}
  std::vector<Proposal> Ask(const SearchProblem& problem, Rng& rng) const override;
  void Tell(const SearchProblem& problem, std::span<const Trial> batch) override;
  int64_t Wanted(int64_t) const override { return 1; }

 private:
  double Temperature(const SearchProblem& problem) const;
  const AnnealingConfig config_;
  Decision point_;
  double value_ = 0;
  std::vector<double> first_;  // values of the start
  double used_ = 0;
};

}  // namespace espalier

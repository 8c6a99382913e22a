#pragma once

#include "search/proposer.h"

namespace espalier {

struct Nsga2Config {
  int64_t population = 24;
  double changes = 3;      ///< ratios a mutation changes, on average
  double sigma = 0.3;      ///< of the logarithm of a changed ratio
  double crossover = 0.9;  ///< chance of two parents, as in the paper
  double least = 0.1;      ///< smallest ratio drawn at the start
  /// Objectives beside the metric: macs, params, activation_bytes, latency_ms; none named = those
  /// the budget bounds.
  std::vector<std::string> costs{};
};
Schema Describe(Nsga2Config& config);

/// A front of accuracy against one cost or several: candidates anywhere below the budget, not only
/// at it. The run's network is the most accurate one within the budget; trials.jsonl and the
/// search's info hold the front.
///
/// Errors   kConfig from the first Tell for a cost that is none, or latency that was not measured.
/// Source   Deb et al., "A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II", IEEE Trans.
///          Evol. Comput. 6(2), 2002, section III.
/// Deviates Uniform crossover and log-normal mutation of keep ratios in place of SBX and
/// polynomial.
class Nsga2 final : public Proposer {
 public:
  static constexpr const char* kName = "nsga2";
  explicit Nsga2(const Nsga2Config& config) : config_(config) {}
  std::vector<Proposal> Ask(const SearchProblem& problem, Rng& rng) const override;
  void Tell(const SearchProblem& problem, std::span<const Trial> batch) override;

 private:
  struct Member {
    Decision point;
    std::vector<double> objectives;  // larger = better
  };
  const Member& Parent(Rng& rng) const;
  std::vector<CostKind> CostsOf(const SearchProblem& problem) const;
  const Nsga2Config config_;
  std::vector<Member> members_;  // best first: by rank, then by crowding
};

}  // namespace espalier

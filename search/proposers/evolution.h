#pragma once

#include <deque>

#include "search/proposer.h"

namespace espalier {

struct EvolutionConfig {
  int64_t population = 32;  ///< the paper: 100
  int64_t tournament = 8;   ///< the paper: 25 of 100
  int64_t batch = 8;        ///< children of one generation; the paper: 1 at a time
  double changes = 3;       ///< ratios a mutation changes, on average
  double sigma = 0.3;       ///< of the logarithm of a changed ratio
  double crossover = 0.25;  ///< chance of a second parent; the paper: 0
  double least = 0.1;       ///< smallest ratio drawn at the start
};
Schema Describe(EvolutionConfig& config);

/// Regularised evolution: the best of a random few becomes a parent; the oldest dies, however good.
///
/// Source   Real, Aggarwal, Huang, Le, "Regularized Evolution for Image Classifier Architecture
///          Search", AAAI 2019, arXiv:1802.01548, algorithm 1.
/// Deviates Children come in batches, which race; a child may have two parents.
/// State    the last `population` trials.
class Evolution final : public Proposer {
 public:
  static constexpr const char* kName = "evolution";
  explicit Evolution(const EvolutionConfig& config) : config_(config) {}
  std::vector<Proposal> Ask(const SearchProblem& problem, Rng& rng) const override;
  void Tell(const SearchProblem& problem, std::span<const Trial> batch) override;
  int64_t Wanted(int64_t batch) const override { return (batch + 1) / 2; }

 private:
  struct Member {
    Decision point;
    double value;
  };
  const Member& Parent(Rng& rng) const;

  const EvolutionConfig config_;
  std::deque<Member> members_;  // oldest first
};

}  // namespace espalier

#pragma once

#include "search/proposer.h"

namespace espalier {

struct MacProportionalConfig {
  double exponent = 0.5;  ///< 0 = uniform; 1 = ratio inversely proportional to the MACs
};
Schema Describe(MacProportionalConfig& config);

/// One candidate: the more multiply-adds depend on a group, the less of it stays,
/// ratio ~ (d MACs / d ratio)^-exponent. A rule of thumb beside `uniform`.
///
/// Source   baseline
class MacProportional final : public Proposer {
 public:
  static constexpr const char* kName = "mac_proportional";
  explicit MacProportional(const MacProportionalConfig& config) : config_(config) {}
  std::vector<Proposal> Ask(const SearchProblem& problem, Rng& rng) const override;
  void Tell(const SearchProblem& problem, std::span<const Trial> batch) override;
  bool Done(const SearchProblem&) const override { return done_; }

 private:
  const MacProportionalConfig config_;
  bool done_ = false;
};

}  // namespace espalier

#pragma once

#include <string>

#include "criteria/criterion.h"

namespace espalier {

struct L1NormConfig {
  std::string reduce = "sum";   ///< over members: sum, mean, max, prod, first (the root member)
  std::string members = "all";  ///< all, or producer: rows only, as the paper scores one layer
  bool norms = true;            ///< batch-norm scales and other per-channel weights count too
  bool bias = false;            ///< bias vectors count too
};
Schema Describe(L1NormConfig& config);

/// Scores a unit by the sum of its absolute weights; small filters are assumed to matter least. The
/// usual baseline: needs no data.
///
/// Source   Li et al., "Pruning Filters for Efficient ConvNets", arXiv:1608.08710, §3.1 step 1.
/// Deviates The paper scores the rows of one layer; by default we sum over the dependency group
///          (producer rows, consumer columns, per-channel scales), so that coupled layers share one
///          ranking. members = "producer", norms = false is the paper's score.
/// Units    none; >= 0; comparable within a group, not across groups of different fan-in.
/// Errors   internal: empty group, or a group of which no member is scored.
class L1Norm final : public Criterion {
 public:
  explicit L1Norm(const L1NormConfig& config)
      : config_(config), reduce_(ParseReduce(config.reduce)) {}
  Tensor Score(const GroupView& group, uint64_t seed) const override;

 private:
  const L1NormConfig config_;
  const Reduce reduce_;
};

}  // namespace espalier

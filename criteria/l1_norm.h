#pragma once

#include "criteria/members.h"

namespace espalier {

struct L1NormConfig {
  MemberConfig over;  ///< which members count and how they are joined
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
/// Errors   internal: empty group; kModel: a group of which no member is scored.
class L1Norm final : public Criterion {
 public:
  explicit L1Norm(const L1NormConfig& config) : config_(config) {}
  Tensor Score(const GroupView& group, uint64_t seed) const override;

 private:
  const L1NormConfig config_;
};

}  // namespace espalier

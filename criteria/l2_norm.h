#pragma once

#include "criteria/members.h"

namespace espalier {

struct L2NormConfig {
  MemberConfig over;  ///< which members count and how they are joined
  double p = 2;       ///< power; > 0
};
Schema Describe(L2NormConfig& config);

/// Scores a unit by the sum of its squared weights, or of any other power of them.
///
/// Source   Fang et al., "DepGraph: Towards Any Structural Pruning", arXiv:2301.12900: the
///          group's importance is the sum of its members' norms.
/// Deviates No root is taken: it would not change the order within a group with reduce = "sum".
/// Units    none; >= 0; comparable within a group, not across groups of different fan-in.
/// Errors   internal: empty group; kModel: a group of which no member is scored.
class L2Norm final : public Criterion {
 public:
  explicit L2Norm(const L2NormConfig& config) : config_(config) {}
  Tensor Score(const GroupView& group, uint64_t seed) const override;

 private:
  const L2NormConfig config_;
};

}  // namespace espalier

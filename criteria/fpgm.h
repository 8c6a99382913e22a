#pragma once

#include "criteria/members.h"

namespace espalier {

struct FpgmConfig {
  MemberConfig over{.norms = false};  ///< scalars per channel have no geometry
};
Schema Describe(FpgmConfig& config);

/// Scores a unit by the sum of its distances to all units of the group: one near the geometric
/// median can be replaced by the others.
///
/// Source   He et al., "Filter Pruning via Geometric Median for Deep Convolutional Neural Networks
///          Acceleration", arXiv:1811.00250.
/// Deviates Distances are taken for each member of the group and joined as `reduce` says; the paper
///          looks at the rows of one layer (members = "producer").
/// Units    of weights; >= 0; comparable within a group.
/// Errors   internal: empty group; kModel: a group of which no member is scored.
/// Cost     units^2 * elements.
class Fpgm final : public Criterion {
 public:
  explicit Fpgm(const FpgmConfig& config) : config_(config) {}
  Tensor Score(const GroupView& group, uint64_t seed) const override;

 private:
  const FpgmConfig config_;
};

}  // namespace espalier

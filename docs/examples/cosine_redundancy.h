#pragma once

#include "criteria/members.h"

namespace espalier {

struct CosineRedundancyConfig {
  MemberConfig over{.norms = false};  ///< which members count and how they are joined
};
Schema Describe(CosineRedundancyConfig& config);

/// Scores a unit by how little its weights point in the direction of the other units': a unit that
/// others resemble can go.
///
/// Source   ours, for docs/add_criterion.md.
/// Units    1 - mean |cos|, in [0, 1] for each member; comparable within a group.
/// Errors   internal: empty group; kModel: a group of which no member is scored.
/// Cost     units^2 * elements.
class CosineRedundancy final : public Criterion {
 public:
  explicit CosineRedundancy(const CosineRedundancyConfig& config) : config_(config) {}
  Tensor Score(const GroupView& group, uint64_t seed) const override;

 private:
  const CosineRedundancyConfig config_;
};

}  // namespace espalier

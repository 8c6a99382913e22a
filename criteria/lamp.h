#pragma once

#include "criteria/members.h"

namespace espalier {

struct LampConfig {
  MemberConfig over;  ///< which members count and how they are joined
};
Schema Describe(LampConfig& config);

/// Squared magnitude, each unit relative to itself and all larger units of its group: the best unit
/// of every group gets 1, so that scores can be ranked over the whole network.
///
/// Source   Lee et al., "Layer-adaptive Sparsity for the Magnitude-based Pruning",
///          arXiv:2010.07611.
/// Deviates The paper scores single weights of a layer; we score units of a group.
/// Units    in (0, 1], zeros in a group of zeros; comparable across groups.
/// Errors   internal: empty group; kModel: a group of which no member is scored.
class Lamp final : public Criterion {
 public:
  explicit Lamp(const LampConfig& config) : config_(config) {}
  Tensor Score(const GroupView& group, uint64_t seed) const override;

 private:
  const LampConfig config_;
};

}  // namespace espalier

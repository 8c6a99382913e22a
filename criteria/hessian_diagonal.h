#pragma once

#include "criteria/members.h"

namespace espalier {

struct HessianDiagonalConfig {
  MemberConfig over;  ///< which members count and how they are joined
};
Schema Describe(HessianDiagonalConfig& config);

/// Optimal brain damage: the second-order change of the loss with a diagonal Hessian, taken as the
/// empirical Fisher information, sum_i w_i^2 F_i / 2.
///
/// Source   LeCun, Denker, Solla, "Optimal Brain Damage", NIPS 1989.
/// Symbols  h_kk -> F: mean over samples of g^2.
/// Deviates The Hessian's diagonal is the empirical Fisher's: exact at a minimum where the model is
///          right.
/// Units    of the loss; >= 0; comparable across groups.
/// Errors   internal: empty group; kModel: a group of which no member is scored.
/// Cost     a forward and backward of each sample.
class HessianDiagonal final : public Criterion {
 public:
  explicit HessianDiagonal(const HessianDiagonalConfig& config) : config_(config) {}
  Needs needs() const override { return {Need::kSampleGradient}; }
  Tensor Score(const GroupView& group, uint64_t seed) const override;

 private:
  const HessianDiagonalConfig config_;
};

}  // namespace espalier

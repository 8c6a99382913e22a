#pragma once

#include "criteria/criterion.h"

namespace espalier {

/// Scores that know nothing: the control every criterion has to beat.
///
/// Units    uniform in [0, 1).
/// Errors   internal: empty group.
/// Random   one draw per unit from the stream (seed, "criterion/random/<group name>").
class RandomCriterion final : public Criterion {
 public:
  explicit RandomCriterion(const NoConfig& /*config*/) {}
  Tensor Score(const GroupView& group, uint64_t seed) const override;
};

}  // namespace espalier

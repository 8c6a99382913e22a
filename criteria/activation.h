#pragma once

#include "criteria/members.h"

namespace espalier {

struct ActivationConfig {
  std::string mode = "energy";  ///< energy: E x^2; mean: E |x|
  std::string reduce = "mean";  ///< over the places where the group is read
};
Schema Describe(ActivationConfig& config);

/// Scores a unit by what it sends to its consumers: the mean square or mean absolute value of the
/// activations where it is read.
///
/// Source   Muralidharan et al., "Compact Language Models via Pruning and Knowledge Distillation",
///          arXiv:2407.14679 (activation-based importance: mean and L2).
/// Deviates Read at the consumers, where a mask is exact, instead of at layer norms and heads.
/// Units    of activations (energy: squared); >= 0; comparable within a group.
/// Errors   internal: empty group; kModel naming a group whose units are read nowhere.
/// Cost     one forward a batch.
class Activation final : public Criterion {
 public:
  explicit Activation(const ActivationConfig& config) : config_(config) {}
  Needs needs() const override { return {Need::kForward}; }
  Tensor Score(const GroupView& group, uint64_t seed) const override;

 private:
  const ActivationConfig config_;
};

}  // namespace espalier

#pragma once

#include "criteria/members.h"

namespace espalier {

struct ActivationConfig {
  std::string mode = "energy";  ///< energy: E x^2; mean: E |x|; weighted: E x^2 |w|^2
  std::string reduce = "mean";  ///< over the places where the group is read
};
Schema Describe(ActivationConfig& config);

/// Scores a unit by what it sends to its consumers: the mean square or mean absolute value of the
/// activations where it is read, or (weighted) what its part of the consumer's output sums to,
/// E x^2 times the square of the consumer's weights that read it.
///
/// Source   Muralidharan et al., "Compact Language Models via Pruning and Knowledge Distillation",
///          arXiv:2407.14679 (activation-based importance: mean and L2).
/// Deviates Read at the consumers, where a mask is exact, instead of at layer norms and heads.
///          Weighted: of convolutions and linear layers only; where none reads the group (a branch
///          that is added to its trunk) the unit goes on as it is: E x^2.
/// Units    of activations (energy: squared; weighted: of the consumer's outputs, squared); >= 0;
///          comparable within a group.
/// Errors   internal: empty group; kModel naming a group whose units are read nowhere.
/// Cost     one forward a batch.
class Activation final : public Criterion {
 public:
  explicit Activation(const ActivationConfig& config) : config_(config) {}
  Needs needs() const override {
    return config_.mode == "weighted" ? Needs{Need::kForward, Need::kGramDiagonal}
                                      : Needs{Need::kForward};
  }
  Tensor Score(const GroupView& group, uint64_t seed) const override;

 private:
  const ActivationConfig config_;
};

}  // namespace espalier

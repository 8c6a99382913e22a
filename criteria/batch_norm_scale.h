#pragma once

#include "criteria/members.h"

namespace espalier {

struct BatchNormScaleConfig {
  std::string reduce = "mean";  ///< over the normalisations of a group
};
Schema Describe(BatchNormScaleConfig& config);

/// Scores a channel by the absolute scale of the normalisation behind it: training with a penalty
/// on these scales pushes useless channels to zero.
///
/// Source   Liu et al., "Learning Efficient Convolutional Networks through Network Slimming",
///          arXiv:1708.06519.
/// Deviates Groups with several normalisations (residual trunks) take their mean. Layer and group
///          norms count too.
/// Units    none; >= 0; comparable across groups when the network was trained with the penalty.
/// Errors   internal: empty group; kModel naming a group without a normalisation.
class BatchNormScale final : public Criterion {
 public:
  explicit BatchNormScale(const BatchNormScaleConfig& config) : config_(config) {}
  Tensor Score(const GroupView& group, uint64_t seed) const override;

 private:
  const BatchNormScaleConfig config_;
};

}  // namespace espalier

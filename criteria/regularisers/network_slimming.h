#pragma once

#include "criteria/regularisers/regulariser.h"

namespace espalier {

struct NetworkSlimmingConfig {
  double lambda = 1e-5;  ///< the paper: 1e-4 or 1e-5
  bool tied = false;  ///< one norm over all normalisations of a group instead of each scale alone
};
Schema Describe(NetworkSlimmingConfig& config);

/// Pulls the scales of normalisations towards zero by a constant force; the criterion
/// batch_norm_scale then reads them. Nothing else is touched.
///
///   gradient on every scale g of unit k: lambda sign(g); tied: lambda g / sqrt(sum of g^2)
///
/// Source   Liu, Li, Shen, Huang, Yan, Zhang, "Learning Efficient Convolutional Networks through
///          Network Slimming", arXiv:1708.06519, equation 1; subgradient descent, sign(0) = 0.
class NetworkSlimming final : public Regulariser {
 public:
  explicit NetworkSlimming(const NetworkSlimmingConfig& config) : config_(config) {}
  bool Counts(const GroupView::Slice& slice) const override { return slice.is_norm; }
  Tensor Sizes(const UnitWeights& weights) const override;
  Tensor Strengths(const UnitWeights& weights, const Tensor& sizes,
                   const Tensor& memory) const override;

 private:
  const NetworkSlimmingConfig config_;
};

}  // namespace espalier

#pragma once

#include "criteria/regularisers/regulariser.h"

namespace espalier {

struct GrowingConfig {
  double lambda = 1e-4;  ///< pull on every unit in the first epoch
  double delta = 1e-5;   ///< growth an epoch for the weakest unit; DepGraph's recipe: 1e-4
};
Schema Describe(GrowingConfig& config);

/// Pulls the weights of weak units harder from epoch to epoch, those of the strongest as at the
/// start: units move apart gently, and late.
///
///   memory_k += (I_max - I_k) / (I_max - I_min) each epoch
///   gradient on every weight w of unit k: (lambda + delta memory_k) w
///
/// Source   Wang, Qin, Zhang, Fu, "Neural Pruning via Growing Regularization", arXiv:2012.09243,
///          GReg-2; over dependency groups as in arXiv:2301.12900. (Sections were not at hand.)
/// Deviates The paper raises the penalty every few iterations by the same amount for all units that
///          are to go; here, as in DepGraph's comparison, every epoch by each unit's shortfall.
class Growing final : public Regulariser {
 public:
  explicit Growing(const GrowingConfig& config) : config_(config) {}
  Tensor Sizes(const UnitWeights& weights) const override { return SquaredNorms(weights); }
  Tensor Strengths(const UnitWeights& weights, const Tensor& sizes,
                   const Tensor& memory) const override;
  void Remember(const UnitWeights& weights, const Tensor& sizes, Tensor& memory) const override;

 private:
  const GrowingConfig config_;
};

}  // namespace espalier

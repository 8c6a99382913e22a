#pragma once

#include "criteria/regularisers/regulariser.h"

namespace espalier {

struct GroupSparsityConfig {
  double lambda = 5e-4;  ///< strength on the largest unit of each group; the paper: 5e-4 on CIFAR
  double alpha = 4;      ///< the weakest unit is pulled 2^alpha times as hard
};
Schema Describe(GroupSparsityConfig& config);

/// Pulls all weights of a unit towards zero together, in every coupled layer, and weak units harder
/// than strong ones: groups become sparse in the same units everywhere.
///
///   I_k = sqrt(sum of w^2 over all members)     gamma_k = 2^(alpha (I_max - I_k) / (I_max -
///   I_min)) gradient on every weight w of unit k: lambda gamma_k w
///
/// Source   Fang, Ma, Song, Mi, Wang, "DepGraph: Towards Any Structural Pruning", arXiv:2301.12900,
///          section 3.3: R = sum of gamma_k I_k^2, alpha = 4. (Equation numbers were not at hand.)
/// Symbols  I_k -> root of SquaredNorms; gamma_k -> Strengths / (lambda / 2).
/// Deviates The factor 2 of the square's derivative belongs to lambda, as in the released code.
class GroupSparsity final : public Regulariser {
 public:
  explicit GroupSparsity(const GroupSparsityConfig& config) : config_(config) {}
  Tensor Sizes(const UnitWeights& weights) const override { return SquaredNorms(weights); }
  Tensor Strengths(const UnitWeights& weights, const Tensor& sizes,
                   const Tensor& memory) const override;

 private:
  const GroupSparsityConfig config_;
};

}  // namespace espalier

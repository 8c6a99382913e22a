#pragma once

#include "criteria/regularisers/regulariser.h"

namespace espalier {

struct GroupLassoConfig {
  double lambda = 1e-4;  ///< pull on every unit
};
Schema Describe(GroupLassoConfig& config);

/// Pulls every unit towards zero by the same force, whatever its norm: small units reach zero,
/// large ones hardly notice.
///
///   gradient on every weight w of unit k: lambda w / I_k
///
/// Source   Yuan, Lin, "Model Selection and Estimation in Regression with Grouped Variables", JRSS
/// B
///          68 (2006); the example of docs/add_regulariser.md.
/// Symbols  I_k -> Sizes: the root of the sum of squares over all of a unit's weights.
/// Deviates Units of different numbers of weights are pulled alike; the subgradient at 0 is 0.
class GroupLasso final : public Regulariser {
 public:
  explicit GroupLasso(const GroupLassoConfig& config) : config_(config) {}
  Tensor Sizes(const UnitWeights& weights) const override;
  Tensor Strengths(const UnitWeights& weights, const Tensor& sizes,
                   const Tensor& memory) const override;

 private:
  const GroupLassoConfig config_;
};

}  // namespace espalier

#include "criteria/regularisers/network_slimming.h"

#include <ATen/ATen.h>

namespace espalier {

Schema Describe(NetworkSlimmingConfig& config) {
  Schema schema;
  schema.Add("lambda", &config.lambda, "weight of the sum of |scale|", {.low = 0});
  schema.Add("tied", &config.tied,
             "one norm over all normalisations of a group instead of each scale alone");
  return schema;
}

Tensor NetworkSlimming::Sizes(const UnitWeights& weights) const {
  if (!config_.tied) return weights.Sum([](const Tensor& scale) { return scale.abs(); });
  // Below the least, the root's subgradient at 0 is taken to be 0.
  constexpr double kLeast = 1e-30;
  return SquaredNorms(weights).clamp_min(kLeast).sqrt();
}

Tensor NetworkSlimming::Strengths(const UnitWeights& /*weights*/, const Tensor& sizes,
                                  const Tensor& /*memory*/) const {
  return at::full_like(sizes, config_.lambda);
}

ESPALIER_REGISTER_REGULARISER(NetworkSlimming, NetworkSlimmingConfig,
                              {.name = "network_slimming",
                               .summary = "L1 on the scales of normalisations",
                               .source = "arXiv:1708.06519, equation 1",
                               .facts = {"deterministic"}})

}  // namespace espalier

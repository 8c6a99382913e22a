#include "criteria/regularisers/group_sparsity.h"

#include <ATen/ATen.h>

namespace espalier {

Schema Describe(GroupSparsityConfig& config) {
  Schema schema;
  schema.Add("lambda", &config.lambda, "pull on the largest unit of each group", {.low = 0});
  schema.Add("alpha", &config.alpha, "the weakest unit is pulled 2^alpha times as hard",
             {.low = 0, .high = 60});
  return schema;
}

Tensor GroupSparsity::Strengths(const UnitWeights& weights, const Tensor& sizes,
                                const Tensor& /*memory*/) const {
  const Tensor gamma = at::exp2(config_.alpha * weights.Shortfall(sizes.sqrt()));
  return gamma * (config_.lambda / 2);  // d(I^2)/dw = 2 w
}

ESPALIER_REGISTER_REGULARISER(GroupSparsity, GroupSparsityConfig,
                              {.name = "group_sparsity",
                               .summary = "group norms, weak units pulled up to 2^alpha harder",
                               .source = "arXiv:2301.12900, section 3.3",
                               .facts = {"deterministic"}})

}  // namespace espalier

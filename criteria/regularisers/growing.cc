#include "criteria/regularisers/growing.h"

#include <ATen/ATen.h>

namespace espalier {

Schema Describe(GrowingConfig& config) {
  Schema schema;
  schema.Add("lambda", &config.lambda, "pull on every unit in the first epoch", {.low = 0});
  schema.Add("delta", &config.delta, "what an epoch adds to it for the weakest unit of each group",
             {.low = 0});
  return schema;
}

Tensor Growing::Strengths(const UnitWeights& /*weights*/, const Tensor& /*sizes*/,
                          const Tensor& memory) const {
  return (config_.lambda + config_.delta * memory) / 2;  // d(I^2)/dw = 2 w
}

void Growing::Remember(const UnitWeights& weights, const Tensor& sizes, Tensor& memory) const {
  memory.add_(weights.Shortfall(sizes.sqrt()));
}

ESPALIER_REGISTER_REGULARISER(Growing, GrowingConfig,
                              {.name = "growing",
                               .summary = "decay that grows from epoch to epoch for weak units",
                               .source = "arXiv:2012.09243, GReg-2",
                               .facts = {"deterministic"}})

}  // namespace espalier

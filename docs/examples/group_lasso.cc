#include "docs/examples/group_lasso.h"

#include <ATen/ATen.h>

namespace espalier {

Schema Describe(GroupLassoConfig& config) {
  Schema schema;
  schema.Add("lambda", &config.lambda, "pull on every unit", {.low = 0});
  return schema;
}

Tensor GroupLasso::Sizes(const UnitWeights& weights) const {
  constexpr double kLeast = 1e-30;  // the root has no gradient below it
  return SquaredNorms(weights).clamp_min(kLeast).sqrt();
}

Tensor GroupLasso::Strengths(const UnitWeights& /*weights*/, const Tensor& sizes,
                             const Tensor& /*memory*/) const {
  return at::full_like(sizes, config_.lambda);
}

ESPALIER_REGISTER_REGULARISER(GroupLasso, GroupLassoConfig,
                              {.name = "group_lasso",
                               .summary = "group norms, every unit pulled by the same force",
                               .source = "Yuan, Lin, JRSS B 68 (2006)",
                               .facts = {"deterministic"}})

}  // namespace espalier

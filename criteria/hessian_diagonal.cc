#include "criteria/hessian_diagonal.h"

#include <ATen/ATen.h>

namespace espalier {

Schema Describe(HessianDiagonalConfig& config) {
  Schema schema;
  AddMemberFields(schema, config.over);
  return schema;
}

Tensor HessianDiagonal::Score(const GroupView& group, uint64_t /*seed*/) const {
  return ScoreMembers(group, config_.over, [](const GroupView::Slice& slice) {
    ESPALIER_CHECK(slice.statistics, "'", slice.parameter, "' has no gradients");
    return 0.5 * slice.layout.Sum(slice.weight.square() * slice.statistics->fisher);
  });
}

ESPALIER_REGISTER_CRITERION(HessianDiagonal, HessianDiagonalConfig,
                            {.name = "hessian_diagonal",
                             .summary = "optimal brain damage: w^2 F / 2, F from single samples",
                             .source = "LeCun et al., NIPS 1989",
                             .facts = {kAcrossGroups, "deterministic"}})

}  // namespace espalier

#include "criteria/wood_fisher.h"

#include <ATen/ATen.h>

namespace espalier {

Schema Describe(WoodFisherConfig& config) {
  Schema schema;
  schema.Add("damping", &config.damping, "added to the Fisher matrix's diagonal", {.low = 0});
  AddMemberFields(schema, config.over);
  return schema;
}

Tensor WoodFisher::Score(const GroupView& group, uint64_t /*seed*/) const {
  return ScoreMembers(group, config_.over, [&](const GroupView::Slice& slice) {
    ESPALIER_CHECK(slice.products, "'", slice.parameter, "' has no gradients");
    // rho_Q with Q the whole block: w^T (lambda I + (1/m) sum g g^T) w / 2.
    return 0.5 * (slice.products->sample_square + config_.damping * slice.SumPowers(2));
  });
}

ESPALIER_REGISTER_CRITERION(WoodFisher, WoodFisherConfig,
                            {.name = "wood_fisher",
                             .summary = "loss change by the Fisher block of each unit",
                             .source = "arXiv:2203.07259; arXiv:2004.14340",
                             .facts = {kAcrossGroups, "deterministic"}})

}  // namespace espalier

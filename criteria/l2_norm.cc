#include "criteria/l2_norm.h"

namespace espalier {

Schema Describe(L2NormConfig& config) {
  Schema schema;
  AddMemberFields(schema, config.over);
  schema.Add("p", &config.p, "power of |w| that is summed", RealRange{.low = 0, .open_low = true});
  return schema;
}

Tensor L2Norm::Score(const GroupView& group, uint64_t /*seed*/) const {
  return ScoreMembers(group, config_.over,
                      [&](const GroupView::Slice& slice) { return slice.SumPowers(config_.p); });
}

ESPALIER_REGISTER_CRITERION(L2Norm, L2NormConfig,
                            {.name = "l2_norm",
                             .summary = "sum of w^2 (or |w|^p) over what leaves with the unit",
                             .source = "arXiv:2301.12900",
                             .facts = {kDataFree, "deterministic"}})

}  // namespace espalier

#include "criteria/l1_norm.h"

namespace espalier {

Schema Describe(L1NormConfig& config) {
  Schema schema;
  AddMemberFields(schema, config.over);
  return schema;
}

Tensor L1Norm::Score(const GroupView& group, uint64_t /*seed*/) const {
  return ScoreMembers(group, config_.over, [](const GroupView::Slice& slice) {
    return slice.SumPowers(1);  // §3.1 step 1: s_j = sum |w|
  });
}

ESPALIER_REGISTER_CRITERION(L1Norm, L1NormConfig,
                            {.name = "l1_norm",
                             .summary = "sum of |w| over all weights that leave with the unit",
                             .source = "arXiv:1608.08710 §3.1",
                             .facts = {kDataFree, "deterministic"}})

}  // namespace espalier

#include "criteria/fpgm.h"

#include <ATen/ATen.h>

namespace espalier {

Schema Describe(FpgmConfig& config) {
  Schema schema;
  AddMemberFields(schema, config.over);
  return schema;
}

Tensor Fpgm::Score(const GroupView& group, uint64_t /*seed*/) const {
  return ScoreMembers(group, config_.over, [](const GroupView::Slice& slice) {
    const Tensor rows = slice.Rows();  // [units, elements]
    // Sum over j of |u_k - u_j|. Without the matrix product, which loses near distances.
    constexpr int64_t kDirectly = 2;
    return at::cdist(rows, rows, 2, kDirectly).sum(1);
  });
}

ESPALIER_REGISTER_CRITERION(Fpgm, FpgmConfig,
                            {.name = "fpgm",
                             .summary = "sum of distances to the other units of the group",
                             .source = "arXiv:1811.00250",
                             .facts = {kDataFree, "deterministic"}})

}  // namespace espalier

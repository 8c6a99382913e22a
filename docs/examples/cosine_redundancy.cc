#include "docs/examples/cosine_redundancy.h"

#include <ATen/ATen.h>

namespace espalier {

Schema Describe(CosineRedundancyConfig& config) {
  Schema schema;
  AddMemberFields(schema, config.over);
  return schema;
}

Tensor CosineRedundancy::Score(const GroupView& group, uint64_t /*seed*/) const {
  return ScoreMembers(group, config_.over, [](const GroupView::Slice& slice) {
    const Tensor rows = slice.Rows();              // [units, elements] float64
    const Tensor lengths = rows.norm(2, 1, true);  // [units, 1]
    const Tensor directions = rows / lengths.masked_fill(lengths.eq(0), 1);  // zeros stay zeros
    const Tensor cosines = at::matmul(directions, directions.t());           // [units, units]
    return 1 - cosines.abs().mean(1);
  });
}

ESPALIER_REGISTER_CRITERION(CosineRedundancy, CosineRedundancyConfig,
                            {.name = "cosine_redundancy",
                             .summary = "1 - mean |cos| to the other units of the group",
                             .source = "ours",
                             .facts = {kDataFree, "deterministic"}})

}  // namespace espalier

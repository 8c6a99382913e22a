#include "criteria/batch_norm_scale.h"

#include <ATen/ATen.h>

namespace espalier {

Schema Describe(BatchNormScaleConfig& config) {
  Schema schema;
  schema.Add("reduce", &config.reduce, "how the scales of several normalisations become one",
             kReduceNames);
  return schema;
}

Tensor BatchNormScale::Score(const GroupView& group, uint64_t /*seed*/) const {
  ESPALIER_CHECK(group.units > 0 && !group.slices.empty(), "group '", group.name, "' is empty");
  std::vector<Tensor> scales;
  for (const GroupView::Slice& slice : group.slices)
    if (slice.is_norm) scales.push_back(slice.SumPowers(1));
  if (scales.empty())
    throw Error(ErrorKind::kModel,
                Str("group '", group.name, "' has no normalisation whose scale could be read"),
                "choose another criterion, or exclude the layer: space.exclude");
  return ReduceMembers(scales, ParseReduce(config_.reduce));
}

ESPALIER_REGISTER_CRITERION(BatchNormScale, BatchNormScaleConfig,
                            {.name = "batch_norm_scale",
                             .summary = "|scale| of the normalisation behind the unit",
                             .source = "arXiv:1708.06519",
                             .facts = {kDataFree, "deterministic"}})

}  // namespace espalier

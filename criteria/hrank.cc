#include "criteria/hrank.h"

#include <ATen/ATen.h>

namespace espalier {

Schema Describe(HrankConfig& config) {
  Schema schema;
  schema.Add("reduce", &config.reduce, "how several places where the unit is read become one",
             kReduceNames);
  return schema;
}

Tensor Hrank::Score(const GroupView& group, uint64_t /*seed*/) const {
  ESPALIER_CHECK(group.units > 0 && !group.slices.empty(), "group '", group.name, "' is empty");
  std::vector<Tensor> reads;
  for (const GroupView::Read& read : group.reads)
    if (read.statistics->rank.defined()) reads.push_back(read.Sum(read.statistics->rank));
  if (reads.empty())
    throw Error(ErrorKind::kModel,
                Str("group '", group.name, "': its units are channels of no feature map"),
                "choose another criterion, or exclude the layer: space.exclude");
  return ReduceMembers(reads, ParseReduce(config_.reduce));
}

ESPALIER_REGISTER_CRITERION(Hrank, HrankConfig,
                            {.name = "hrank",
                             .summary = "average rank of the feature maps",
                             .source = "arXiv:2002.10179",
                             .facts = {"deterministic"}})

}  // namespace espalier

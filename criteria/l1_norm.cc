#include "criteria/l1_norm.h"

namespace espalier {

Schema Describe(L1NormConfig& config) {
  Schema schema;
  schema.Add("reduce", &config.reduce, "how the members' scores become one", kReduceNames);
  schema.Add("members", &config.members, "whose weights count; the paper: producer",
             {"all", "producer"});
  schema.Add("norms", &config.norms, "count per-channel scales such as batch-norm weights");
  schema.Add("bias", &config.bias, "count bias vectors");
  return schema;
}

Tensor L1Norm::Score(const GroupView& group, uint64_t /*seed*/) const {
  ESPALIER_CHECK(group.units > 0 && !group.slices.empty(), "group '", group.name, "' is empty");
  const at::NoGradGuard no_grad;
  std::vector<Tensor> members;  // [M][units]
  for (const GroupView::Slice& slice : group.slices) {
    if (slice.is_bias && !config_.bias) continue;
    if (slice.role == MemberRole::kChannel && !config_.norms) continue;
    if (slice.role == MemberRole::kConsumer && config_.members == "producer") continue;
    ESPALIER_CHECK(slice.weight.size(0) == group.units, "group '", group.name, "': '",
                   slice.parameter, "' has ", slice.weight.size(0), " rows, expected ",
                   group.units);
    members.push_back(slice.weight.abs().sum(1));  // §3.1 step 1: s_j = sum |w|
  }
  ESPALIER_CHECK(!members.empty(), "group '", group.name, "': no member is scored");
  return ReduceMembers(members, reduce_);
}

ESPALIER_REGISTER_CRITERION(L1Norm, L1NormConfig,
                            {.name = "l1_norm",
                             .summary = "sum of |w| over all weights that leave with the unit",
                             .source = "arXiv:1608.08710 §3.1",
                             .facts = {kDataFree, "deterministic"}})

}  // namespace espalier

#include "criteria/members.h"

#include <ATen/ATen.h>

namespace espalier {

Reduce ParseReduce(const std::string& name) {
  for (size_t i = 0; i < kReduceNames.size(); ++i) {
    if (kReduceNames[i] == name) return static_cast<Reduce>(i);
  }
  throw Error(ErrorKind::kConfig, Str("unknown reduction '", name, "'"),
              SuggestName(name, kReduceNames));
}

Tensor ReduceMembers(const std::vector<Tensor>& members, Reduce reduce) {
  ESPALIER_CHECK(!members.empty(), "no member to reduce");
  if (reduce == Reduce::kFirst) return members.front();
  if (reduce == Reduce::kLast) return members.back();
  const Tensor all = at::stack(members);  // [M, units]
  switch (reduce) {
    case Reduce::kSum:
      return all.sum(0);
    case Reduce::kMean:
      return all.mean(0);
    case Reduce::kMax:
      return std::get<0>(all.max(0));
    case Reduce::kProd:
      return all.prod(0);
    case Reduce::kFirst:
    case Reduce::kLast:
      break;
  }
  ESPALIER_CHECK(false, "unknown reduction");
  return {};
}

void AddMemberFields(Schema& schema, MemberConfig& config) {
  schema.Add("reduce", &config.reduce, "how the members' scores become one", kReduceNames);
  schema.Add("members", &config.members, "whose weights count: producer is the layer itself",
             {"all", "producer"});
  schema.Add("norms", &config.norms, "count per-channel scales such as batch-norm weights");
  schema.Add("bias", &config.bias, "count bias vectors");
}

bool Counts(const GroupView::Slice& slice, const MemberConfig& config) {
  if (slice.is_bias) return config.bias;
  if (slice.role == MemberRole::kChannel) return config.norms;
  return slice.role == MemberRole::kProducer || config.members == "all";
}

Tensor ScoreMembers(const GroupView& group, const MemberConfig& config, const SliceScore& score) {
  ESPALIER_CHECK(group.units > 0 && !group.slices.empty(), "group '", group.name, "' is empty");
  const at::NoGradGuard no_grad;
  std::vector<Tensor> members;  // [M][units]
  for (const GroupView::Slice& slice : group.slices) {
    if (!Counts(slice, config)) continue;
    members.push_back(score(slice));
    ESPALIER_CHECK(members.back().dim() == 1 && members.back().size(0) == group.units, "group '",
                   group.name, "': '", slice.parameter, "' has ", members.back().sizes(),
                   " scores, expected ", group.units);
  }
  if (members.empty())
    throw Error(ErrorKind::kModel,
                Str("group '", group.name, "': none of its weights is scored with these options"),
                "let more members count, or exclude the layer: space.exclude");
  return ReduceMembers(members, ParseReduce(config.reduce));
}

}  // namespace espalier

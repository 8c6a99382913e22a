#include "criteria/criterion.h"

#include <cmath>
#include <set>

namespace espalier {
namespace {

/// Stored names that every op reads as an argument called `bias`.
std::set<std::string> BiasNames(const Network& network) {
  std::set<std::string> biases, others;
  for (const Op& op : network.graph.ops) {
    for (const Use& use : UsesOf(op)) {
      const Value& value = network.graph.values[static_cast<size_t>(use.value)];
      if (value.target.empty()) continue;
      const auto& argument = op.handle.schema().arguments()[static_cast<size_t>(use.arg)];
      (argument.name() == "bias" ? biases : others).insert(network.store.Canonical(value.target));
    }
  }
  for (const std::string& name : others) biases.erase(name);
  return biases;
}

/// [blocks * size, elements]: the coordinates of an axis whose axis-0 blocks keep different
/// indices; coordinate (block, offset) stands at block * size + offset.
Tensor BlockedAxisFirst(const Tensor& weight, const Member& member) {
  const int64_t rows = weight.size(0) / member.blocks;
  const int64_t size = weight.size(member.axis);
  return weight.movedim(member.axis, 1)
      .reshape({member.blocks, rows, size, -1})  // [blocks, rows, size, rest]
      .transpose(1, 2)                           // [blocks, size, rows, rest]
      .reshape({member.blocks * size, -1});
}

Tensor SliceByUnit(const Group& group, const Member& member, const Tensor& stored) {
  const Tensor weight = stored.detach().to(at::kCPU);
  const auto wanted = static_cast<int64_t>(member.indices.size());
  const int64_t first = member.first_unit, count = member.units();
  ESPALIER_CHECK(wanted == count * member.per_unit && first >= 0 && first + count <= group.units,
                 "group '", group.name, "', member '", member.parameter, "': ", wanted,
                 " indices of ", member.per_unit, " a unit from unit ", first, " of ", group.units);
  if (member.axis >= weight.dim()) {
    throw Error(ErrorKind::kModel,
                Str("group '", group.name, "': '", member.parameter, "' has ", weight.dim(),
                    " axes, the space names axis ", member.axis),
                "weights of another network?");
  }
  const bool blocked = member.blocks > 1 && member.axis != 0;
  const int64_t size = weight.size(member.axis) * (blocked ? member.blocks : 1);
  const Tensor index = at::tensor(member.indices, at::kLong);
  if (wanted > 0 && index.max().item<int64_t>() >= size) {
    throw Error(
        ErrorKind::kModel,
        Str("group '", group.name, "': axis ", member.axis, " of '", member.parameter, "' has ",
            size, " coordinates, the space names coordinate ", index.max().item<int64_t>()),
        "weights of another network?");
  }
  // Picked before it is widened: a consumer of many groups is large and gives each of them little.
  const Tensor picked = blocked ? BlockedAxisFirst(weight, member).index_select(0, index)
                                : weight.index_select(member.axis, index).movedim(member.axis, 0);
  const Tensor slices = picked.to(at::kDouble).reshape({count, -1});
  if (count == group.units) return slices.contiguous();
  // Units this tensor does not touch (the queries' dims of a value projection) have zeros here;
  // they compete within blocks, which are all of one kind.
  return at::constant_pad_nd(slices, {0, 0, first, group.units - first - count}).contiguous();
}

}  // namespace

std::vector<GroupView> ViewGroups(const Space& space, const ParameterStore& store) {
  const at::NoGradGuard no_grad;
  const std::set<std::string> biases = BiasNames(space.network());
  std::vector<GroupView> views;
  for (const Group& group : space.groups()) {
    GroupView view{.name = group.name, .units = group.units, .slices = {}};
    for (const Member& member : group.members) {
      if (store.Kind(member.parameter) != StoreKind::kParameter) continue;
      view.slices.push_back({.parameter = member.parameter,
                             .role = member.role,
                             .is_bias = biases.contains(member.parameter),
                             .weight = SliceByUnit(group, member, store.Get(member.parameter))});
    }
    views.push_back(std::move(view));
  }
  return views;
}

std::vector<std::vector<double>> ScoreGroups(const Criterion& criterion, const Space& space,
                                             const ParameterStore& store, uint64_t seed) {
  const at::NoGradGuard no_grad;
  std::vector<std::vector<double>> scores;
  for (const GroupView& view : ViewGroups(space, store)) {
    const Tensor scored = criterion.Score(view, seed).to(at::kCPU, at::kDouble).contiguous();
    if (scored.dim() != 1 || scored.size(0) != view.units) {
      throw Error(ErrorKind::kModel, Str("group '", view.name, "': the criterion returned ",
                                         scored.numel(), " scores for ", view.units, " units"));
    }
    const auto* first = scored.const_data_ptr<double>();
    scores.emplace_back(first, first + view.units);
    for (int64_t unit = 0; unit < view.units; ++unit) {
      if (std::isfinite(first[unit])) continue;
      throw Error(ErrorKind::kModel,
                  Str("group '", view.name, "', unit ", unit, ": score is ", first[unit],
                      ", expected a finite number"),
                  "do the weights hold NaN or infinity?");
    }
  }
  return scores;
}

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
      break;
  }
  ESPALIER_CHECK(false, "unknown reduction");
}

}  // namespace espalier

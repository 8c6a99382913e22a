#include "criteria/group_view.h"

#include <ATen/ATen.h>

#include <unordered_map>
#include <unordered_set>

#include "env/base/error.h"

namespace espalier {
namespace {

/// A stored parameter, as all groups that touch it see it.
struct Stored {
  Tensor weight;  ///< undefined: a buffer
  bool is_bias = false, is_norm = false;
  std::shared_ptr<AxisSums> sums{};
};

/// Parameters by canonical name, with how ops read them.
std::unordered_map<std::string, Stored> ViewParameters(const Space& space,
                                                       const ParameterStore& store) {
  std::unordered_map<std::string, Stored> parameters;
  std::unordered_set<std::string> met;
  const Graph& graph = space.network().graph;
  for (const Op& op : graph.ops) {
    const bool norm = op.handle.operator_name().name.find("_norm") != std::string::npos;
    for (const Use& use : UsesOf(op)) {
      const Value& value = graph.values[static_cast<size_t>(use.value)];
      if (value.target.empty()) continue;
      const auto& argument = op.handle.schema().arguments()[static_cast<size_t>(use.arg)].name();
      const std::string& name = space.network().store.Canonical(value.target);
      Stored& stored = parameters[name];
      const bool first = met.insert(name).second;
      stored.is_bias = argument == "bias" && (first || stored.is_bias);
      stored.is_norm = norm && argument == "weight" && (first || stored.is_norm);
    }
  }
  std::unordered_map<std::string, int64_t> blocks;
  for (const Group& group : space.groups())
    for (const Member& member : group.members)
      if (member.axis == 1 && member.blocks > 1) blocks[member.parameter] = member.blocks;
  for (const Group& group : space.groups())
    for (const Member& member : group.members) {
      Stored& stored = parameters[member.parameter];
      if (stored.weight.defined() || store.Kind(member.parameter) != StoreKind::kParameter)
        continue;
      stored.weight = store.Get(member.parameter).detach();
      const auto found = blocks.find(member.parameter);
      const int64_t split = found == blocks.end() ? 1 : found->second;
      // Weights of another network: the layout says what does not fit.
      if (stored.weight.dim() > 0 && stored.weight.size(0) % split == 0)
        stored.sums = std::make_shared<AxisSums>(stored.weight, split);
    }
  return parameters;
}

GroupView::Read ViewRead(const Space& space, size_t group, const ReadStatistics& statistics) {
  const int64_t first = space.unit_offset(group), units = space.groups()[group].units;
  const auto local = [&](int64_t unit) {
    return unit >= first && unit < first + units ? unit - first : -1;
  };
  GroupView::Read read{
      .statistics = &statistics,
      .op =
          space.network().graph.ops[static_cast<size_t>(statistics.op)].handle.operator_name().name,
      .unit = {},
      .units = units};
  bool any = false;
  for (const int32_t unit : statistics.unit) {
    int64_t own = -1;
    if (unit >= 0) {
      own = local(unit);
      if (own < 0 && space.parent_of_unit(unit) >= 0) own = local(space.parent_of_unit(unit));
    }
    read.unit.push_back(own);
    any = any || own >= 0;
  }
  if (!any) read.unit.clear();
  return read;
}

}  // namespace

Tensor GroupView::Read::Sum(const Tensor& by_coordinate) const {
  const Tensor values = by_coordinate.to(at::kDouble).contiguous();
  ESPALIER_CHECK(values.numel() == static_cast<int64_t>(unit.size()), values.sizes(), " for ",
                 unit.size(), " coordinates");
  Tensor sums = at::zeros({units}, at::kDouble);
  for (size_t i = 0; i < unit.size(); ++i)
    if (unit[i] >= 0)
      sums.mutable_data_ptr<double>()[unit[i]] += values.const_data_ptr<double>()[i];
  return sums;
}

GroupView::Slice MakeSlice(const std::string& parameter, MemberRole role, const Tensor& weight,
                           bool is_bias) {
  return {.parameter = parameter,
          .role = role,
          .is_bias = is_bias,
          .weight = weight,
          .layout = UnitLayout::Rows(parameter, role, weight.size(0))};
}

std::vector<GroupView> ViewGroups(const Space& space, const ParameterStore& store,
                                  const Statistics* statistics) {
  const std::unordered_map<std::string, Stored> parameters = ViewParameters(space, store);
  std::vector<GroupView> views;
  for (size_t g = 0; g < space.groups().size(); ++g) {
    const Group& group = space.groups()[g];
    GroupView view{.name = group.name, .kind = group.kind, .units = group.units, .slices = {}};
    for (size_t m = 0; m < group.members.size(); ++m) {
      const Member& member = group.members[m];
      const Stored& stored = parameters.at(member.parameter);
      if (!stored.weight.defined()) continue;
      GroupView::Slice slice{.parameter = member.parameter,
                             .role = member.role,
                             .is_bias = stored.is_bias,
                             .is_norm = stored.is_norm,
                             .weight = stored.weight,
                             .layout = UnitLayout(group, member),
                             .sums = stored.sums};
      if (statistics) {
        if (const auto found = statistics->parameters.find(member.parameter);
            found != statistics->parameters.end()) {
          slice.statistics = &found->second;
          slice.products = &statistics->products[g][m];
        }
        const auto gram = statistics->grams.find(member.parameter);
        if (member.role == MemberRole::kConsumer && gram != statistics->grams.end())
          slice.gram = &gram->second;
      }
      view.slices.push_back(std::move(slice));
    }
    if (statistics) {
      for (const ReadStatistics& read : statistics->reads) {
        GroupView::Read found = ViewRead(space, g, read);
        if (!found.unit.empty()) view.reads.push_back(std::move(found));
      }
      if (statistics->ablation.defined())
        view.ablation = statistics->ablation.narrow(0, space.unit_offset(g), group.units);
    }
    views.push_back(std::move(view));
  }
  return views;
}

}  // namespace espalier

#include "env/space/plan.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <unordered_map>

#include "env/base/error.h"

namespace espalier {
namespace {

void CheckGroupCount(const Space& space, const Selection& selection) {
  ESPALIER_CHECK(selection.size() == space.groups().size(), "selection has ", selection.size(),
                 " groups, the space ", space.groups().size());
}

}  // namespace

Selection KeepAll(const Space& space) {
  Selection all;
  for (const Group& group : space.groups()) {
    all.emplace_back(static_cast<size_t>(group.units));
    std::iota(all.back().begin(), all.back().end(), 0);
  }
  return all;
}

std::vector<int64_t> KeptCounts(const Selection& selection) {
  std::vector<int64_t> counts;
  for (const auto& kept : selection) counts.push_back(static_cast<int64_t>(kept.size()));
  return counts;
}

Selection SelectTop(const Space& space, const std::vector<std::vector<double>>& scores,
                    const std::vector<int64_t>& counts) {
  ESPALIER_CHECK(scores.size() == space.groups().size() && counts.size() == scores.size(),
                 "scores for ", scores.size(), " groups, counts for ", counts.size(),
                 ", space has ", space.groups().size());
  Selection selection;
  for (size_t g = 0; g < scores.size(); ++g) {
    const Group& group = space.groups()[g];
    ESPALIER_CHECK(static_cast<int64_t>(scores[g].size()) == group.units, group.name, ": ",
                   scores[g].size(), " scores for ", group.units, " units");
    ESPALIER_CHECK(
        counts[g] >= group.least && counts[g] <= group.units && counts[g] % group.blocks == 0,
        group.name, ": cannot keep ", counts[g], " of ", group.units, " units in ", group.blocks,
        " blocks");
    const int64_t run = group.units / group.blocks;
    std::vector<uint8_t> stays(scores[g].size(), 0);
    for (const std::vector<int64_t>& part : group.parts)
      if (std::ranges::none_of(part,
                               [&](int64_t unit) { return stays[static_cast<size_t>(unit)]; }))
        stays[static_cast<size_t>(*std::ranges::max_element(
            part, {}, [&](int64_t unit) { return scores[g][static_cast<size_t>(unit)]; }))] = 1;
    std::vector<int64_t> kept;
    for (int64_t block = 0; block < group.blocks; ++block) {
      std::vector<int64_t> order(static_cast<size_t>(run));
      std::iota(order.begin(), order.end(), block * run);
      std::ranges::stable_sort(order, std::greater<>(), [&](int64_t unit) {
        const auto u = static_cast<size_t>(unit);
        return std::pair(stays[u], scores[g][u]);
      });
      kept.insert(kept.end(), order.begin(), order.begin() + counts[g] / group.blocks);
    }
    std::sort(kept.begin(), kept.end());
    selection.push_back(std::move(kept));
  }
  return selection;
}

Selection SelectFirst(const Space& space, const std::vector<int64_t>& counts) {
  std::vector<std::vector<double>> equal;
  for (const Group& group : space.groups())
    equal.emplace_back(static_cast<size_t>(group.units), 0.0);
  return SelectTop(space, equal, counts);
}

std::string SelectionFault(const Group& group, std::span<const int64_t> kept) {
  if (std::ssize(kept) < group.least)
    return Str("keeps ", kept.size(), " units, at least ", group.least, " have to stay");
  if (kept.empty()) return "";
  if (std::ranges::adjacent_find(kept, std::greater_equal()) != kept.end())
    return "keeps units that are not in ascending order";
  for (const int64_t unit : {kept.front(), kept.back()})
    if (unit < 0 || unit >= group.units) return Str("keeps unit ", unit, " of ", group.units);
  std::vector<int64_t> per_block(static_cast<size_t>(group.blocks), 0);
  for (const int64_t unit : kept)
    ++per_block[static_cast<size_t>(unit / (group.units / group.blocks))];
  if (std::ranges::adjacent_find(per_block, std::not_equal_to()) != per_block.end())
    return Str("keeps unequal counts in its ", group.blocks, " blocks");
  for (const std::vector<int64_t>& part : group.parts)
    if (std::ranges::none_of(part,
                             [&](int64_t unit) { return std::ranges::binary_search(kept, unit); }))
      return Str("keeps none of the ", part.size(), " units from ", part.front(),
                 " on, which are all there is along an axis");
  return "";
}

std::vector<uint8_t> UnitMask(const Space& space, const Selection& selection) {
  CheckGroupCount(space, selection);
  std::vector<uint8_t> mask(static_cast<size_t>(space.total_units()), 0);
  for (size_t g = 0; g < selection.size(); ++g)
    for (const int64_t unit : selection[g]) {
      const Group& group = space.groups()[g];
      ESPALIER_CHECK(unit >= 0 && unit < group.units, group.name, " keeps unit ", unit, " of ",
                     group.units, ": a selection of another space");
      mask[static_cast<size_t>(space.unit_offset(g) + unit)] = 1;
    }
  return mask;
}

std::vector<uint8_t> EffectiveMask(const Space& space, const std::vector<uint8_t>& mask) {
  ESPALIER_CHECK(std::ssize(mask) == space.total_units(), "a mask of ", mask.size(),
                 " units for a space of ", space.total_units());
  std::vector<uint8_t> effective = mask;
  for (size_t unit = 0; unit < mask.size(); ++unit)
    if (const int32_t parent = space.parent_of_unit(static_cast<int64_t>(unit)); parent >= 0)
      effective[unit] = mask[unit] && mask[static_cast<size_t>(parent)];
  return effective;
}

namespace {

void CheckSelection(const Space& space, const Selection& selection) {
  CheckGroupCount(space, selection);
  for (size_t g = 0; g < selection.size(); ++g) {
    const std::string fault = SelectionFault(space.groups()[g], selection[g]);
    ESPALIER_CHECK(fault.empty(), space.groups()[g].name, " ", fault);
  }
}

/// Kept indices of every (parameter, axis) that loses coordinates.
void FillKept(const Space& space, const std::vector<uint8_t>& mask, Plan& plan) {
  struct Removal {
    int64_t axis, blocks;
    std::vector<uint8_t> gone;  // by coordinate
  };
  std::unordered_map<std::string, std::vector<Removal>> removals;  // by parameter
  for (size_t g = 0; g < space.groups().size(); ++g) {
    if (space.groups()[g].kind == "depth") continue;  // its tensors go as a whole
    for (const Member& member : space.groups()[g].members) {
      const uint8_t* kept = mask.data() + space.unit_offset(g) + member.first_unit;
      if (std::find(kept, kept + member.units(), 0) == kept + member.units()) continue;
      auto& axes = removals[member.parameter];
      auto axis = std::find_if(axes.begin(), axes.end(),
                               [&](const Removal& known) { return known.axis == member.axis; });
      if (axis == axes.end()) {
        const int64_t size = space.network().store.Get(member.parameter).size(member.axis);
        axis = axes.insert(axis, {member.axis, member.blocks,
                                  std::vector<uint8_t>(static_cast<size_t>(size * member.blocks))});
      }
      const int64_t* index = member.indices.data();
      for (int64_t u = 0; u < member.units(); ++u)
        for (int64_t i = 0; i < member.per_unit; ++i)
          axis->gone[static_cast<size_t>(*index++)] |= !kept[u];
    }
  }
  for (auto& [parameter, axes] : removals) {
    std::sort(axes.begin(), axes.end(),
              [](const Removal& a, const Removal& b) { return a.axis < b.axis; });
    for (const Removal& axis : axes) {
      KeptAxis kept{axis.axis, std::vector<std::vector<int64_t>>(static_cast<size_t>(axis.blocks))};
      const size_t size = axis.gone.size() / kept.kept.size();
      const uint8_t* gone = axis.gone.data();
      for (auto& list : kept.kept) {
        list.resize(size);
        size_t count = 0;  // no branch: which go is as good as random
        for (size_t i = 0; i < size; ++i) {
          list[count] = static_cast<int64_t>(i);
          count += !*gone++;
        }
        list.resize(count);
      }
      for (const auto& list : kept.kept)
        ESPALIER_CHECK(!list.empty() && list.size() == kept.kept.front().size(), parameter,
                       " axis ", axis.axis, ": blocks keep unequal counts, or nothing");
      plan.kept[parameter].push_back(std::move(kept));
    }
  }
}

}  // namespace

Plan MakePlan(const Space& space, const Selection& selection) {
  CheckSelection(space, selection);
  const std::vector<uint8_t> mask = UnitMask(space, selection);
  Plan plan;
  plan.source_name = space.network().name;
  plan.folded = space.folded();
  const std::vector<uint8_t> effective = EffectiveMask(space, mask);
  FillKept(space, effective, plan);
  for (const Numbering& numbering : space.numberings()) {
    const auto& units = space.values()[static_cast<size_t>(numbering.value)]
                            .unit[static_cast<size_t>(numbering.axis)];
    std::vector<int64_t> kept;
    for (size_t i = 0; i < units.size(); ++i)
      if (units[i] < 0 || effective[static_cast<size_t>(units[i])])
        kept.push_back(static_cast<int64_t>(i));
    if (kept.size() < units.size()) plan.renumbered[numbering.buffer] = std::move(kept);
  }
  for (size_t g = 0; g < selection.size(); ++g)
    plan.groups.push_back({space.groups()[g].name, space.groups()[g].units, selection[g]});
  plan.edits = FollowLiterals(space, mask);
  for (const Branch& branch : space.branches()) {
    if (!selection[static_cast<size_t>(branch.group)].empty()) continue;
    const Op& op = space.network().graph.ops[static_cast<size_t>(branch.op)];
    plan.edits.push_back(
        {op.name, op.target(), "alpha", branch.op, {1}, {0}, false, op.module_path});
    plan.branches.push_back({op.name, branch.module});
    plan.removed.insert(plan.removed.end(), branch.stored.begin(), branch.stored.end());
  }
  std::sort(plan.removed.begin(), plan.removed.end());
  plan.removed.erase(std::unique(plan.removed.begin(), plan.removed.end()), plan.removed.end());
  return plan;
}

}  // namespace espalier

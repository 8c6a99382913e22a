#include "env/space/space_builder.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <unordered_map>

#include "env/base/error.h"
#include "env/base/pattern.h"

namespace espalier {
namespace {

/// "layer1.0.conv1.weight" -> "layer1.0.conv1".
std::string ModuleOf(const std::string& parameter) {
  const size_t dot = parameter.rfind('.');
  return dot == std::string::npos ? parameter : parameter.substr(0, dot);
}

}  // namespace

SpaceBuilder::SpaceBuilder(Network network, std::vector<ValueMeta> meta,
                           const SpaceOptions& options)
    : options_(options),
      space_([&] {
        Space space;
        space.network_ = std::move(network);
        return space;
      }()),
      tracer_(space_.network_, std::move(meta)) {}

Space SpaceBuilder::Build(std::vector<Branch> branches, std::vector<std::string> folded) {
  space_.folded_ = std::move(folded);
  tracer_.Run();
  Exclude();
  classes_.emplace(tracer_);
  inexact_.resize(classes_->all().size());
  for (const LabelTracer::Read& norm : tracer_.norms()) {
    const Tensor flat = norm.ids.contiguous();
    for (int64_t i = 0; i < flat.numel(); ++i)
      if (const int32_t index = classes_->Of(flat.const_data_ptr<int64_t>()[i]); index >= 0)
        inexact_[static_cast<size_t>(index)] = true;
  }
  MakeGroups();
  MakeHeads();
  units_.assign(static_cast<size_t>(tracer_.coordinate_count()), -1);
  for (size_t id = 1; id < units_.size(); ++id)
    units_[id] = UnitOfClass(classes_->Of(static_cast<int64_t>(id)));
  MakeLayerSets();
  MakeReads();
  MakeBranches(std::move(branches));
  MakePins();
  MakeValues();
  MakeParts();
  return std::move(space_);
}

void SpaceBuilder::Exclude() {
  for (const std::string& pattern : options_.exclude) {
    bool used = false;
    for (const CoordinateAxis& axis : tracer_.axes()) {
      if (!axis.is_root || !MatchesPattern(axis.layer, pattern)) continue;
      used = true;
      for (int64_t i = 0; i < axis.count; ++i)
        tracer_.Pin(axis.first + i, Str("excluded by '", pattern, "'"));
    }
    if (used) continue;
    std::vector<std::string> layers;
    for (const CoordinateAxis& axis : tracer_.axes())
      if (axis.is_root) layers.push_back(axis.layer);
    throw Error(ErrorKind::kConfig, Str("space.exclude: '", pattern, "' matches no layer"),
                SuggestName(pattern, layers));
  }
}

bool SpaceBuilder::IsExcluded(const std::string& module_path) const {
  return std::ranges::any_of(options_.exclude, [&](const std::string& pattern) {
    return MatchesPattern(module_path, pattern);
  });
}

SpaceBuilder::Pattern SpaceBuilder::PatternOf(std::span<const int64_t> ids) const {
  Pattern pattern;
  for (const int64_t id : ids) {  // ascending: an axis' coordinates follow each other
    const int32_t axis = tracer_.AxisIndex(id);
    if (pattern.empty() || pattern.back().first != axis) pattern.push_back({axis, 0});
    ++pattern.back().second;
  }
  return pattern;
}

/// Classes of one pattern, joined with those whose blocks have to keep as many.
void SpaceBuilder::MakeGroups() {
  UnitClasses& classes = *classes_;
  std::vector<int32_t> parent(static_cast<size_t>(classes.pattern_count()));  // patterns -> sets
  std::iota(parent.begin(), parent.end(), 0);
  const auto set_of = [&](int32_t index) {
    int32_t set = classes[index].pattern;
    while (parent[static_cast<size_t>(set)] != set) set = parent[static_cast<size_t>(set)];
    return set;
  };
  for (const UnitClasses::Blocks& blocks : classes.blocks()) {
    int32_t first = -1;
    for (const auto& slab : blocks.slabs)
      for (const int32_t index : slab) {
        if (!classes[index].free()) continue;
        if (first < 0) first = index;
        parent[static_cast<size_t>(set_of(index))] = set_of(first);
      }
  }
  const auto count = static_cast<int32_t>(classes.all().size());
  std::vector<int32_t> sets(classes.all().size(), -1);  // by class
  std::vector<int32_t> free;                            // classes in the order of their roots
  for (int32_t index = 0; index < count; ++index) {
    if (!classes[index].free()) continue;
    sets[static_cast<size_t>(index)] = set_of(index);
    free.push_back(index);
  }
  std::sort(free.begin(), free.end(),
            [&](int32_t a, int32_t b) { return classes[a].root < classes[b].root; });
  std::vector<std::vector<int32_t>> ordered;  // sets by their first root
  std::unordered_map<int32_t, size_t> place;
  for (const int32_t index : free) {
    const auto [entry, fresh] = place.try_emplace(sets[static_cast<size_t>(index)], ordered.size());
    if (fresh) ordered.emplace_back();
    ordered[entry->second].push_back(index);
  }
  for (std::vector<int32_t>& members : ordered) {
    int64_t blocks = 1;
    std::string where;
    if (!OrderByBlocks(members, sets, blocks, where) || !KeepsEveryAxis(members, blocks, where)) {
      for (const int32_t index : members) classes.Pin(index, where);
      continue;
    }
    const bool is_dim =
        std::ranges::any_of(members, [&](int32_t index) { return classes[index].parent >= 0; });
    if (blocks > 1 && std::ssize(members) == blocks && !is_dim) {  // each block keeps its only one
      for (const int32_t index : members) classes.Pin(index, where);
      continue;
    }
    bool has_heads = blocks > 1;
    for (const int32_t index : members) has_heads = has_heads && classes[index].parent >= 0;
    if (has_heads && options_.attention == "heads") {
      for (const int32_t index : members)
        classes.Pin(index, "only whole heads are cut (space.attention = \"heads\")");
      continue;
    }
    AddGroup(members, blocks, has_heads ? "head_dim" : "channel");
  }
}

std::string SpaceBuilder::UniqueName(const std::string& base) {
  std::string name = base;
  for (int copy = 2; !names_.insert(name).second; ++copy) name = Str(base, "#", copy);
  return name;
}

/// Units get their numbers group by group.
void SpaceBuilder::AddUnits(Group group, const std::vector<int32_t>& members) {
  const auto number = static_cast<int32_t>(space_.groups_.size());
  space_.offsets_.push_back(space_.total_units());
  for (const int32_t index : members) {
    (*classes_)[index].unit = static_cast<int32_t>(space_.total_units());
    space_.group_of_.push_back(number);
  }
  space_.groups_.push_back(std::move(group));
}

void SpaceBuilder::AddGroup(const std::vector<int32_t>& members, int64_t blocks,
                            const std::string& kind) {
  const UnitClasses& classes = *classes_;
  Group group;
  group.name = UniqueName(ModuleOf(tracer_.AxisOf(classes[members.front()].root).parameter));
  group.kind = kind;
  group.units = static_cast<int64_t>(members.size());
  group.blocks = group.least = blocks;
  std::vector<std::span<const int64_t>> units;
  for (const int32_t index : members) {
    units.push_back(classes[index].ids);
    group.exact = group.exact && !inexact_[static_cast<size_t>(index)];
  }
  AddMembers(group, units);
  AddUnits(std::move(group), members);
}

/// One Member per run of units and tensor axis they touch. units: the coordinates of each.
void SpaceBuilder::AddMembers(Group& group,
                              const std::vector<std::span<const int64_t>>& units) const {
  const auto same_axis = [&](int64_t a, int64_t b) {
    return tracer_.AxisIndex(a) == tracer_.AxisIndex(b);
  };
  for (size_t start = 0, end = 0; start < units.size(); start = end) {
    while (end < units.size() && std::ranges::equal(units[start], units[end], same_axis)) ++end;
    size_t from = 0;  // place of the axis' coordinates in those of each unit
    for (const auto& [number, count] : PatternOf(units[start])) {
      const size_t begin = std::exchange(from, from + count);
      const CoordinateAxis& axis = tracer_.axes()[static_cast<size_t>(number)];
      if (axis.parameter.empty()) continue;  // phantoms: only literals follow
      Member member{axis.parameter,
                    axis.axis,
                    axis.blocks,
                    axis.role,
                    static_cast<int64_t>(count),
                    {},
                    static_cast<int64_t>(start)};
      member.indices.reserve(count * (end - start));
      for (size_t u = start; u < end; ++u)
        for (const int64_t id : units[u].subspan(begin, count))
          member.indices.push_back(id - axis.first);
      if (axis.kind == CoordinateAxis::Kind::kElements) ElementsToAxis(axis, member);
      group.members.push_back(std::move(member));
    }
  }
}

/// From elements of a tensor to indices along the axis that its units run along.
void SpaceBuilder::ElementsToAxis(const CoordinateAxis& elements, Member& member) const {
  const auto cut = classes_->CutOf(elements);
  const auto sizes = tracer_.StoredSizes(elements.parameter);
  const auto axis = static_cast<size_t>(cut.axis);
  int64_t inner = 1;
  for (size_t d = axis + 1; d < sizes.size(); ++d) inner *= sizes[d];
  const int64_t size = sizes[axis], block = elements.count / cut.blocks;
  const int64_t units = member.units();
  std::vector<int64_t> indices;
  for (int64_t unit = 0; unit < units; ++unit) {
    const auto first = member.indices.begin() + unit * member.per_unit;
    std::vector<int64_t> own(first, first + member.per_unit);
    for (int64_t& index : own)
      index = index / block * size * (cut.blocks > 1) + index / inner % size;
    std::sort(own.begin(), own.end());
    indices.insert(indices.end(), own.begin(), std::unique(own.begin(), own.end()));
  }
  member.axis = cut.axis;
  member.blocks = cut.blocks;
  member.per_unit = static_cast<int64_t>(indices.size()) / units;
  member.indices = std::move(indices);
}

/// Heads: units that own what is tied to the head itself and all coordinates of its dims.
void SpaceBuilder::MakeHeads() {
  UnitClasses& classes = *classes_;
  space_.parents_.assign(space_.group_of_.size(), -1);
  if (options_.attention == "dims") return;
  std::map<std::pair<Pattern, std::vector<int32_t>>, std::vector<int32_t>> sets;
  for (size_t c = 0; c < classes.all().size(); ++c) {
    const UnitClass& slab = classes.all()[c];
    if (!slab.is_slab || slab.reason >= 0) continue;
    std::vector<int32_t> groups;
    for (const int32_t dim : slab.covered)
      if (const int32_t unit = classes[dim].unit; unit >= 0)
        groups.push_back(space_.group_of_unit(unit));
    groups.erase(std::unique(groups.begin(), groups.end()), groups.end());
    std::vector<int64_t> covered;
    for (const int32_t dim : slab.covered)
      covered.insert(covered.end(), classes[dim].ids.begin(), classes[dim].ids.end());
    std::sort(covered.begin(), covered.end());
    sets[{PatternOf(covered), groups}].push_back(static_cast<int32_t>(c));
  }
  for (auto& [key, members] : sets) {
    const auto root = [&](int32_t index) { return classes[classes[index].covered.front()].root; };
    std::sort(members.begin(), members.end(),
              [&](int32_t a, int32_t b) { return root(a) < root(b); });
    Group group;
    group.name = UniqueName(ModuleOf(tracer_.AxisOf(root(members.front())).parameter) + ".heads");
    group.units = static_cast<int64_t>(members.size());
    std::vector<std::vector<int64_t>> ids;
    for (const int32_t index : members) {
      std::vector<int64_t>& all = ids.emplace_back();
      all.assign(classes[index].ids.begin(), classes[index].ids.end());
      for (const int32_t dim : classes[index].covered) {
        all.insert(all.end(), classes[dim].ids.begin(), classes[dim].ids.end());
        group.exact = group.exact && !inexact_[static_cast<size_t>(dim)];
      }
      std::sort(all.begin(), all.end());
    }
    AddMembers(group, {ids.begin(), ids.end()});
    int64_t least = 0, most = 0;
    for (const Member& member : group.members)
      if (member.role == MemberRole::kProducer && member.axis == 0 &&
          space_.network_.store.Get(member.parameter).dim() == 2) {
        least = least == 0 ? member.per_unit : std::min(least, member.per_unit);
        most = std::max(most, member.per_unit);
      }
    group.kind = most > least ? "kv_group" : "head";
    AddUnits(std::move(group), members);
    space_.parents_.resize(space_.group_of_.size(), -1);
    for (const int32_t index : members)
      for (const int32_t dim : classes[index].covered)
        if (const int32_t unit = classes[dim].unit; unit >= 0)
          space_.parents_[static_cast<size_t>(unit)] = classes[index].unit;
  }
}

int32_t SpaceBuilder::UnitOfClass(int32_t index) const {
  const UnitClass& owner = (*classes_)[index];
  // A dim that cannot go alone goes with its head.
  return owner.unit < 0 && owner.parent >= 0 ? (*classes_)[owner.parent].unit : owner.unit;
}

}  // namespace espalier

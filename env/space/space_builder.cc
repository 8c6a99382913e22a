#include "env/space/space_builder.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <map>
#include <regex>

#include "env/base/error.h"

namespace espalier {
namespace {

/// `*` stands for any text; everything else is literal.
bool MatchesPattern(const std::string& text, const std::string& pattern) {
  std::string expression;
  for (const char c : pattern)
    expression += c == '*'                                                  ? ".*"
                  : std::isalnum(static_cast<unsigned char>(c)) || c == '_' ? std::string(1, c)
                                                                            : std::string("\\") + c;
  return std::regex_match(text, std::regex(expression));
}

/// "layer1.0.conv1.weight" -> "layer1.0.conv1".
std::string ModuleOf(const std::string& parameter) {
  const size_t dot = parameter.rfind('.');
  return dot == std::string::npos ? parameter : parameter.substr(0, dot);
}

}  // namespace

SpaceBuilder::SpaceBuilder(Network network, const SpaceOptions& options)
    : options_(options),
      space_([&] {
        Space space;
        space.network_ = std::move(network);
        return space;
      }()),
      tracer_(space_.network_) {}

Space SpaceBuilder::Build() {
  tracer_.Run();
  Exclude();
  classes_.emplace(tracer_);
  for (const LabelTracer::Read& norm : tracer_.norms()) {
    const Tensor flat = norm.ids.reshape({-1}).contiguous();
    for (int64_t i = 0; i < flat.numel(); ++i)
      inexact_.insert(classes_->Of(flat.const_data_ptr<int64_t>()[i]));
  }
  MakeGroups();
  MakeHeads();
  MakeLayerSets();
  MakeReads();
  MakePins();
  MakeValues();
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

SpaceBuilder::Pattern SpaceBuilder::PatternOf(const std::vector<int64_t>& ids) const {
  Pattern pattern;
  const CoordinateAxis* axis = nullptr;
  for (const int64_t id : ids) {  // ascending: an axis' coordinates follow each other
    if (axis == nullptr || id >= axis->first + axis->count) {
      axis = &tracer_.AxisOf(id);
      if (axis->kind != CoordinateAxis::Kind::kSlab) pattern.push_back({axis->first, 0});
    }
    if (axis->kind != CoordinateAxis::Kind::kSlab) ++pattern.back().second;
  }
  return pattern;
}

/// Classes of one pattern, joined with those whose blocks have to keep as many.
void SpaceBuilder::MakeGroups() {
  UnitClasses& classes = *classes_;
  std::map<Pattern, size_t> patterns;
  std::vector<size_t> parent;  // over pattern numbers
  std::vector<size_t> number(classes.all().size(), 0);
  const auto find = [&](size_t set) {
    while (parent[set] != set) set = parent[set];
    return set;
  };
  for (size_t c = 0; c < classes.all().size(); ++c) {
    if (!classes.all()[c].free()) continue;
    const auto [entry, fresh] =
        patterns.try_emplace(PatternOf(classes.all()[c].ids), parent.size());
    if (fresh) parent.push_back(parent.size());
    number[c] = entry->second;
  }
  for (const UnitClasses::Blocks& blocks : classes.blocks()) {
    int32_t first = -1;
    for (const auto& slab : blocks.slabs)
      for (const int32_t index : slab) {
        if (!classes[index].free()) continue;
        if (first < 0) first = index;
        parent[find(number[static_cast<size_t>(index)])] = find(number[static_cast<size_t>(first)]);
      }
  }
  std::map<size_t, std::vector<int32_t>> sets;
  for (size_t c = 0; c < classes.all().size(); ++c)
    if (classes.all()[c].free()) sets[find(number[c])].push_back(static_cast<int32_t>(c));
  std::vector<std::pair<int64_t, std::vector<int32_t>>> ordered;  // by first root coordinate
  for (auto& [set, members] : sets) {
    std::sort(members.begin(), members.end(),
              [&](int32_t a, int32_t b) { return classes[a].root < classes[b].root; });
    ordered.push_back({classes[members.front()].root, members});
  }
  std::sort(ordered.begin(), ordered.end());
  for (auto& [root, members] : ordered) {
    int64_t blocks = 1;
    std::string where;
    if (!OrderByBlocks(members, blocks, where)) {
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

/// Brings classes into the order of their finest block structure. False, with the reason, when the
/// structures they are in do not nest.
bool SpaceBuilder::OrderByBlocks(std::vector<int32_t>& classes, int64_t& blocks,
                                 std::string& where) const {
  const std::set<int32_t> members(classes.begin(), classes.end());
  std::vector<std::pair<std::vector<std::vector<int32_t>>, std::string>> structures;
  for (const UnitClasses::Blocks& known : classes_->blocks()) {
    std::vector<std::vector<int32_t>> slabs;
    for (const auto& slab : known.slabs) {
      slabs.emplace_back();
      for (const int32_t index : slab)
        if (members.contains(index)) slabs.back().push_back(index);
      if (slabs.back().empty()) slabs.pop_back();
    }
    if (slabs.size() > 1) structures.push_back({std::move(slabs), known.where});
  }
  if (structures.empty()) return true;
  std::sort(structures.begin(), structures.end(),
            [](const auto& a, const auto& b) { return a.first.size() > b.first.size(); });
  auto& finest = structures.front().first;
  std::map<int32_t, size_t> slab_of;
  for (size_t s = 0; s < finest.size(); ++s)
    for (const int32_t index : finest[s]) slab_of[index] = s;
  where = Str(structures.front().second, ": blocks of different structure");
  const size_t length = finest.front().size();
  for (const auto& slab : finest)
    if (slab.size() != length) return false;
  if (slab_of.size() != classes.size()) return false;  // some units are in no block
  for (const auto& [slabs, place] : structures) {
    where = Str(place, ": blocks of different structure");
    for (const auto& slab : slabs) {
      if (slab.size() != slabs.front().size()) return false;
      std::map<size_t, size_t> parts;
      for (const int32_t index : slab) ++parts[slab_of[index]];
      for (const auto& [part, count] : parts)
        if (count != length) return false;
    }
  }
  std::vector<std::pair<int64_t, size_t>> order;  // slabs by their first root
  for (size_t s = 0; s < finest.size(); ++s) {
    int64_t first = (*classes_)[finest[s].front()].root;
    for (const int32_t index : finest[s]) first = std::min(first, (*classes_)[index].root);
    order.push_back({first, s});
  }
  std::sort(order.begin(), order.end());
  std::vector<size_t> rank(finest.size());
  for (size_t i = 0; i < order.size(); ++i) rank[order[i].second] = i;
  std::stable_sort(classes.begin(), classes.end(),
                   [&](int32_t a, int32_t b) { return rank[slab_of[a]] < rank[slab_of[b]]; });
  blocks = static_cast<int64_t>(finest.size());
  return true;
}

std::string SpaceBuilder::UniqueName(const std::string& base) {
  std::string name = base;
  for (int copy = 2; !names_.insert(name).second; ++copy) name = Str(base, "#", copy);
  return name;
}

void SpaceBuilder::AddGroup(const std::vector<int32_t>& members, int64_t blocks,
                            const std::string& kind) {
  UnitClasses& classes = *classes_;
  Group group;
  group.name = UniqueName(ModuleOf(tracer_.AxisOf(classes[members.front()].root).parameter));
  group.kind = kind;
  group.units = static_cast<int64_t>(members.size());
  group.blocks = blocks;
  std::vector<std::vector<int64_t>> ids;
  for (const int32_t index : members) {
    ids.push_back(classes[index].ids);
    group.exact = group.exact && !inexact_.contains(index);
  }
  AddMembers(group, members, ids);
  space_.offsets_.push_back(space_.total_units_);
  for (const int32_t index : members)
    classes[index].unit = static_cast<int32_t>(space_.total_units_++);
  space_.groups_.push_back(std::move(group));
}

/// One Member per run of units and tensor axis they touch.
void SpaceBuilder::AddMembers(Group& group, const std::vector<int32_t>& classes,
                              const std::vector<std::vector<int64_t>>& ids) const {
  for (size_t start = 0; start < classes.size();) {
    const Pattern pattern = PatternOf(ids[start]);
    size_t end = start;
    while (end < classes.size() && PatternOf(ids[end]) == pattern) ++end;
    for (const auto& [first, per_unit] : pattern) {
      const CoordinateAxis& axis = tracer_.AxisOf(first);
      if (axis.parameter.empty()) continue;  // phantoms: only literals follow
      Member member{axis.parameter,
                    axis.axis,
                    axis.blocks,
                    axis.role,
                    per_unit,
                    {},
                    static_cast<int64_t>(start)};
      const auto cut = axis.kind == CoordinateAxis::Kind::kElements
                           ? classes_->CutOf(axis)
                           : UnitClasses::ElementsCut{axis.axis, axis.blocks};
      int64_t inner = 1;
      if (axis.kind == CoordinateAxis::Kind::kElements) {
        member.axis = cut.axis;
        member.blocks = cut.blocks;
        const auto& sizes = tracer_.StoredSizes(axis.parameter);
        for (size_t d = static_cast<size_t>(cut.axis) + 1; d < sizes.size(); ++d) inner *= sizes[d];
        const int64_t size = cut.blocks > 1 ? axis.count : sizes[static_cast<size_t>(cut.axis)];
        member.per_unit = per_unit * size / axis.count;
        for (size_t u = start; u < end; ++u) {
          std::set<int64_t> indices;
          for (const int64_t id : ids[u])
            if (id >= first && id < first + axis.count) indices.insert((id - first) / inner % size);
          member.per_unit = static_cast<int64_t>(indices.size());
          member.indices.insert(member.indices.end(), indices.begin(), indices.end());
        }
      } else {
        for (size_t u = start; u < end; ++u) {
          auto id = std::lower_bound(ids[u].begin(), ids[u].end(), first);
          for (; id != ids[u].end() && *id < first + axis.count; ++id)
            member.indices.push_back(*id - first);
        }
      }
      group.members.push_back(std::move(member));
    }
    start = end;
  }
}

/// Heads: units that own what is tied to the head itself and all coordinates of its dims.
void SpaceBuilder::MakeHeads() {
  UnitClasses& classes = *classes_;
  space_.parents_.assign(static_cast<size_t>(space_.total_units_), -1);
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
    std::map<std::string, int64_t> rows;  // producer -> coordinates of one unit
    for (const int32_t index : members) {
      std::vector<int64_t> all = classes[index].ids;
      for (const int32_t dim : classes[index].covered) {
        all.insert(all.end(), classes[dim].ids.begin(), classes[dim].ids.end());
        group.exact = group.exact && !inexact_.contains(dim);
      }
      std::sort(all.begin(), all.end());
      ids.push_back(std::move(all));
    }
    AddMembers(group, members, ids);
    int64_t least = 0, most = 0;
    for (const Member& member : group.members)
      if (member.role == MemberRole::kProducer && member.axis == 0 &&
          space_.network_.store.Get(member.parameter).dim() == 2) {
        least = least == 0 ? member.per_unit : std::min(least, member.per_unit);
        most = std::max(most, member.per_unit);
      }
    group.kind = most > least ? "kv_group" : "head";
    space_.offsets_.push_back(space_.total_units_);
    for (const int32_t index : members) {
      classes[index].unit = static_cast<int32_t>(space_.total_units_++);
      space_.parents_.push_back(-1);
      for (const int32_t dim : classes[index].covered)
        if (const int32_t unit = classes[dim].unit; unit >= 0)
          space_.parents_[static_cast<size_t>(unit)] = classes[index].unit;
    }
    space_.groups_.push_back(std::move(group));
  }
}

void SpaceBuilder::MakeLayerSets() {
  std::map<std::pair<std::string, int64_t>, int32_t> owner;  // producer axis -> set
  std::vector<int32_t> parent;
  const auto find = [&](int32_t set) {
    while (parent[static_cast<size_t>(set)] != set) set = parent[static_cast<size_t>(set)];
    return set;
  };
  for (Group& group : space_.groups_) {
    group.layer_set = static_cast<int32_t>(parent.size());
    parent.push_back(group.layer_set);
    for (const Member& member : group.members) {
      if (member.role != MemberRole::kProducer) continue;
      const auto [entry, fresh] =
          owner.try_emplace({member.parameter, member.axis}, group.layer_set);
      if (!fresh) parent[static_cast<size_t>(find(group.layer_set))] = find(entry->second);
    }
  }
  for (Group& group : space_.groups_) group.layer_set = find(group.layer_set);
}

int32_t SpaceBuilder::UnitOf(int64_t id) const {
  return id <= 0 ? -1 : UnitOfClass(classes_->Of(id));
}

int32_t SpaceBuilder::UnitOfClass(int32_t index) const {
  const UnitClass& owner = (*classes_)[index];
  // A dim that cannot go alone goes with its head.
  return owner.unit < 0 && owner.parent >= 0 ? (*classes_)[owner.parent].unit : owner.unit;
}

}  // namespace espalier

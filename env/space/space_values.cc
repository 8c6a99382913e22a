#include <ATen/ATen.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <set>
#include <unordered_map>

#include "env/base/error.h"
#include "env/space/space_builder.h"

// What the units mean for every argument and value of the graph: reads, pins, axis counts.

namespace espalier {

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

ReadPoint SpaceBuilder::MakePoint(const LabelTracer::Read& read) const {
  const Tensor ids = read.ids.contiguous();
  Tensor numbers = at::empty(ids.sizes(), at::kLong);
  std::transform(ids.const_data_ptr<int64_t>(), ids.const_data_ptr<int64_t>() + ids.numel(),
                 numbers.mutable_data_ptr<int64_t>(),
                 [&](int64_t id) -> int64_t {  // filler stays 0, what cannot be cut is -1
                   if (id == 0) return 0;
                   const int32_t unit = UnitOf(id);
                   return unit < 0 ? -1 : unit + 1;
                 });
  numbers = Compress(numbers);
  ReadPoint point{read.op, read.arg, read.element, -1, {}};
  const std::vector<int64_t> varying = VaryingAxes(numbers);
  if (varying.size() == 1)
    point.axis = varying.front();
  else
    point.shape = numbers.sizes().vec();
  const int64_t* found = numbers.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < numbers.numel(); ++i)
    point.unit.push_back(std::max(static_cast<int32_t>(found[i]) - 1, -1));
  if (varying.empty() && numbers.dim() > 0 && point.unit.front() < 0) point.unit.clear();
  return point;
}

void SpaceBuilder::MakeReads() {
  const auto add = [&](const std::vector<LabelTracer::Read>& from, std::vector<ReadPoint>& to) {
    for (const LabelTracer::Read& read : from) {
      ReadPoint point = MakePoint(read);
      if (std::any_of(point.unit.begin(), point.unit.end(), [](int32_t u) { return u >= 0; }))
        to.push_back(std::move(point));
    }
  };
  add(tracer_.reads(), space_.reads_);
  add(tracer_.norms(), space_.norms_);
  for (const LabelTracer::Numbering& numbering : tracer_.numberings())
    space_.numberings_.push_back({numbering.buffer, numbering.value, numbering.axis});
}

/// A branch is one unit, which is read where it is added. What is excluded stays, and so does the
/// branch around it.
void SpaceBuilder::MakeBranches(std::vector<Branch> branches) {
  const Graph& graph = space_.network_.graph;
  const auto is_excluded = [&](const Branch& branch) {
    return std::ranges::any_of(branch.ops, [&](int32_t op) {
      return IsExcluded(graph.ops[static_cast<size_t>(op)].module_path);
    });
  };
  for (Branch& branch : branches) {
    if (is_excluded(branch)) continue;
    const Op& op = graph.ops[static_cast<size_t>(branch.op)];
    branch.group = static_cast<int32_t>(space_.groups_.size());
    const auto unit = static_cast<int32_t>(space_.total_units());
    Group group{.name = UniqueName((op.module_path.empty() ? op.name : op.module_path) + ".branch"),
                .kind = "depth",
                .units = 1,
                .members = {},
                .least = 0,
                .layer_set = branch.group};
    for (const std::string& name : branch.stored) {
      const Tensor& tensor = space_.network_.store.Get(name);
      if (tensor.dim() == 0 || !tensor.is_floating_point()) continue;
      Member member{.parameter = name,
                    .role = tensor.dim() > 1 ? MemberRole::kProducer : MemberRole::kChannel,
                    .per_unit = tensor.size(0),
                    .indices = std::vector<int64_t>(static_cast<size_t>(tensor.size(0)))};
      std::iota(member.indices.begin(), member.indices.end(), 0);
      group.members.push_back(std::move(member));
    }
    space_.offsets_.push_back(unit);
    space_.group_of_.push_back(branch.group);
    space_.parents_.push_back(-1);
    space_.groups_.push_back(std::move(group));
    const auto value = std::get<ValueId>(op.args[static_cast<size_t>(branch.arg)]);
    const std::vector<int64_t> shape(tracer_.sizes(value).size(), 1);
    space_.reads_.push_back({branch.op, branch.arg, 0, -1, {unit}, shape});
    space_.branches_.push_back(std::move(branch));
  }
  std::ranges::stable_sort(space_.reads_, {}, &ReadPoint::op);
}

void SpaceBuilder::MakePins() {
  for (const CoordinateAxis& axis : tracer_.axes()) {
    if (!axis.is_root) continue;
    std::map<int32_t, int64_t> counts;  // reason -> coordinates
    for (int64_t id = axis.first; id < axis.first + axis.count; ++id) {
      const UnitClass& owner = (*classes_)[classes_->Of(id)];
      if (owner.reason >= 0) ++counts[owner.reason];
    }
    for (const auto& [reason, count] : counts)
      space_.pins_.push_back({axis.parameter, axis.axis, count, classes_->Reason(reason)});
  }
}

bool SpaceBuilder::EachAsOften(const std::vector<int32_t>& units, bool in_block) const {
  const auto [low, high] = std::ranges::minmax(units);
  std::vector<int32_t> times(static_cast<size_t>(high - low) + 1, 0);
  for (const int32_t unit : units) ++times[static_cast<size_t>(unit - low)];
  for (size_t at = 0; at < times.size(); ++at) {
    const int64_t unit = low + static_cast<int64_t>(at);
    if (unit < 0 || times[at] == 0) continue;
    const auto g = static_cast<size_t>(space_.group_of_unit(unit));
    const Group& group = space_.groups_[g];
    const int64_t run = group.units / group.blocks, offset = space_.unit_offset(g);
    const int64_t first = in_block ? offset + (unit - offset) / run * run : offset;
    const int64_t count = in_block ? run : group.units;
    if (first < low || first + count - 1 > high) return false;
    for (int64_t other = first; other < first + count; ++other)
      if (times[static_cast<size_t>(other - low)] != times[at]) return false;
    at = static_cast<size_t>(first + count - 1 - low);
  }
  return true;
}

void SpaceBuilder::SetAxis(ValueShape& shape, size_t axis, std::vector<int32_t> units,
                           bool in_block) const {
  if (std::none_of(units.begin(), units.end(), [](int32_t unit) { return unit >= 0; })) return;
  AxisCount count;
  std::map<std::pair<int32_t, int32_t>, int64_t> coordinates;  // (group, parent's group) -> count
  auto last = coordinates.end();
  for (const int32_t unit : units) {
    if (unit < 0) {
      ++count.constant;
      continue;
    }
    const int32_t parent = in_block ? -1 : space_.parent_of_unit(unit);
    const std::pair groups(space_.group_of_unit(unit),
                           parent < 0 ? -1 : space_.group_of_unit(parent));
    if (last == coordinates.end() || last->first != groups)
      last = coordinates.try_emplace(groups, 0).first;
    ++last->second;
  }
  for (const auto& [groups, times] : coordinates) {
    const Group& group = space_.groups_[static_cast<size_t>(groups.first)];
    // Of a block only its own units are listed; all blocks keep as many.
    const bool whole = times % group.units == 0;
    count.terms.push_back({groups.first, whole ? times / group.units : times,
                           whole ? 1 : group.units, groups.second});
  }
  if (!EachAsOften(units, in_block)) count.units = units;
  shape.axes[axis] = std::move(count);
  shape.unit[axis] = std::move(units);
  shape.in_block[axis] = in_block;
}

/// Labels along one axis give its units; along several, the inner axis gets the units of one block
/// and the others the heads that make whole slabs.
void SpaceBuilder::SetLabels(ValueShape& shape, const Tensor& ids) const {
  const auto set_row = [&](int64_t axis, const int64_t* row, int64_t count, auto unit_of) {
    std::vector<int32_t> units(static_cast<size_t>(count));
    std::transform(row, row + count, units.begin(), unit_of);
    SetAxis(shape, static_cast<size_t>(axis), std::move(units), false);
  };
  const std::vector<int64_t> along = VaryingAxes(ids);
  const int64_t* row = ids.const_data_ptr<int64_t>();
  if (along.size() == 1 && ids.is_contiguous() && row[0] > 0 && row[1] > 0 &&
      classes_->Of(row[0]) != classes_->Of(row[1]))  // nearly all: classes run as labels do
    return set_row(along[0], row, ids.numel(), [&](int64_t id) { return UnitOf(id); });
  const Tensor classes = classes_->ClassesOf(ids);
  const std::vector<int64_t> varying = VaryingAxes(classes);
  if (varying.empty()) return;
  const auto unit_of = [&](int64_t number) {
    return number > 0 ? UnitOfClass(static_cast<int32_t>(number - 1)) : -1;
  };
  if (varying.size() == 1)
    return set_row(varying[0], classes.const_data_ptr<int64_t>(), classes.numel(), unit_of);
  const int64_t inner = classes_->InnerAxis(classes);
  for (const int64_t axis : varying) {
    const Tensor rows = classes.movedim(axis, 0).reshape({classes.size(axis), -1}).contiguous();
    std::vector<int32_t> units;
    for (int64_t i = 0; i < rows.size(0); ++i) {
      const int64_t* row = rows.const_data_ptr<int64_t>() + i * rows.size(1);
      if (axis == inner) {
        const int32_t unit = unit_of(row[0]);  // of the dim itself; whole heads leave it whole
        const bool own = unit >= 0 && (*classes_)[static_cast<int32_t>(row[0] - 1)].unit == unit;
        units.push_back(own ? unit : -1);
        continue;
      }
      const auto head_of = [&](int64_t number) {
        if (number <= 0) return -1;
        const int32_t parent = (*classes_)[static_cast<int32_t>(number - 1)].parent;
        return parent < 0 ? -1 : (*classes_)[parent].unit;
      };
      int32_t head = head_of(row[0]);
      for (int64_t k = 1; k < rows.size(1); ++k)
        if (head_of(row[k]) != head) head = -1;
      units.push_back(head);
    }
    SetAxis(shape, static_cast<size_t>(axis), std::move(units), axis == inner);
  }
}

void SpaceBuilder::MakeValues() {
  const Graph& graph = space_.network_.graph;
  space_.values_.reserve(graph.values.size());
  std::unordered_map<const void*, size_t> first_with;  // labels -> the first value that has them
  for (size_t id = 0; id < graph.values.size(); ++id) {
    ValueShape shape;
    shape.sizes = tracer_.meta()[id].sizes;
    shape.axes.reserve(shape.sizes.size());
    for (const int64_t size : shape.sizes) shape.axes.push_back({size, {}});
    shape.blocks.assign(shape.sizes.size(), 1);
    shape.unit.resize(shape.sizes.size());
    shape.in_block.assign(shape.sizes.size(), 0);
    if (!graph.values[id].target.empty()) {
      const std::string& name = space_.network_.store.Canonical(graph.values[id].target);
      if (const auto* elements = tracer_.FindElements(name))
        SetLabels(shape, at::arange(elements->first, elements->first + elements->count, at::kLong)
                             .view(shape.sizes));
      for (size_t axis = 0; axis < shape.sizes.size(); ++axis)
        if (const auto* known = tracer_.FindAxis(name, static_cast<int64_t>(axis))) {
          const auto first = units_.begin() + known->first;
          SetAxis(shape, axis, {first, first + known->count}, false);
          if (known->blocks > 1 && !shape.unit[axis].empty()) shape.blocks[axis] = known->blocks;
        }
    } else if (const Labels& labels = tracer_.labels(static_cast<ValueId>(id)); labels.defined()) {
      const auto [same, fresh] = first_with.try_emplace(labels.ids.unsafeGetTensorImpl(), id);
      if (!fresh && space_.values_[same->second].sizes == shape.sizes)
        shape = space_.values_[same->second];
      else
        SetLabels(shape, labels.ids);
    } else if (tracer_.IsMovedStored(static_cast<ValueId>(id))) {
      for (size_t axis = 0; axis < shape.sizes.size(); ++axis) {
        std::vector<int32_t> units;
        for (const int64_t known :
             tracer_.KnownWeightIds(static_cast<ValueId>(id), static_cast<int64_t>(axis)))
          units.push_back(UnitOf(known));
        const auto blocks = std::ssize(units) / std::max<int64_t>(shape.sizes[axis], 1);
        SetAxis(shape, axis, std::move(units), false);
        if (blocks > 1 && !shape.unit[axis].empty()) shape.blocks[axis] = blocks;
      }
    }
    space_.values_.push_back(std::move(shape));
  }
}

/// An axis that holds no group whole could lose all it has.
void SpaceBuilder::MakeParts() {
  std::vector<std::set<std::vector<int64_t>>> parts(space_.groups_.size());
  std::vector<size_t> seen(space_.group_of_.size(), 0);  // by unit: the axis it was last met on
  size_t number = 0;
  const auto begins_whole = [&](const std::vector<int32_t>& axis) {  // what is usual
    const int32_t first = space_.group_of_unit(axis.front());
    size_t count = 1;
    while (count < axis.size() && axis[count] == axis[count - 1] + 1 &&
           space_.group_of_unit(axis[count]) == first)
      ++count;
    return static_cast<int64_t>(count) == space_.groups_[static_cast<size_t>(first)].units;
  };
  const auto add = [&](const std::vector<int32_t>& axis) {
    if (begins_whole(axis)) return;
    ++number;
    std::map<int32_t, std::vector<int64_t>> found;  // group -> its units here
    for (const int32_t unit : axis) {
      if (seen[static_cast<size_t>(unit)] == number) continue;
      seen[static_cast<size_t>(unit)] = number;
      const int32_t index = space_.group_of_unit(unit);
      std::vector<int64_t>& units = found[index];
      units.push_back(unit - space_.offsets_[static_cast<size_t>(index)]);
      const Group& group = space_.groups_[static_cast<size_t>(index)];
      if (std::ssize(units) == group.units) return;
    }
    const auto keeps_one = [&](const auto& entry) {
      const Group& group = space_.groups_[static_cast<size_t>(entry.first)];
      const int64_t run = group.units / group.blocks;  // a whole block keeps one anyway
      std::map<int64_t, int64_t> in_block;
      for (const int64_t unit : entry.second) ++in_block[unit / run];
      return std::ranges::any_of(in_block, [&](const auto& b) { return b.second == run; });
    };
    if (std::ranges::any_of(found, keeps_one)) return;
    auto& [group, units] =
        *std::ranges::max_element(found, {}, [](const auto& entry) { return entry.second.size(); });
    std::ranges::sort(units);
    parts[static_cast<size_t>(group)].insert(units);
  };
  for (size_t id = 0; id < space_.values_.size(); ++id) {
    const ValueShape& shape = space_.values_[id];
    for (size_t axis = 0; axis < shape.axes.size(); ++axis)
      if (shape.axes[axis].constant == 0 && !shape.unit[axis].empty() && !shape.in_block[axis])
        add(shape.unit[axis]);
    // One unit along an axis of size one.
    const Tensor& ids = tracer_.labels(static_cast<ValueId>(id)).ids;
    if (!ids.defined() || ids.numel() != 1) continue;
    if (const int32_t unit = UnitOf(*ids.const_data_ptr<int64_t>()); unit >= 0) add({unit});
  }
  for (size_t g = 0; g < parts.size(); ++g) {
    Group& group = space_.groups_[g];
    for (const std::vector<int64_t>& part : parts[g])
      if (std::ranges::none_of(parts[g], [&](const std::vector<int64_t>& other) {
            return other.size() < part.size() && std::ranges::includes(part, other);
          }))
        group.parts.push_back(part);
    const auto each = static_cast<int64_t>(group.parts.size());
    group.least = std::min(group.units, std::max(group.least, group.blocks * each));
  }
}

}  // namespace espalier

#include "env/space/space.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <map>
#include <regex>
#include <set>

#include "env/base/error.h"
#include "env/space/label_tracer.h"

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

/// Turns the tracer's coordinates into units, groups, pins and axis counts.
class SpaceBuilder {
 public:
  SpaceBuilder(const Network& network, const SpaceOptions& options)
      : options_(options), tracer_(network) {
    space_.network_ = network;
  }

  Space Build() {
    tracer_.Run();
    Exclude();
    CollectClasses();
    MakeGroups();
    MakeReads();
    MakePins();
    MakeValues();
    return std::move(space_);
  }

 private:
  /// One class of coupled coordinates.
  struct Class {
    std::vector<int64_t> ids;  // ascending
    int32_t reason = -1;       // pinned when >= 0
    int64_t root = 0;          // first coordinate of a root axis; 0 = none
    int32_t unit = -1;         // global unit number
  };

  void Exclude() {
    for (const std::string& pattern : options_.exclude) {
      bool used = false;
      for (const CoordinateAxis& axis : tracer_.axes()) {
        if (!axis.is_root || !MatchesPattern(axis.layer, pattern)) continue;
        used = true;
        for (int64_t i = 0; i < axis.count; ++i)
          tracer_.Pin(axis.first + i, Str("excluded by '", pattern, "'"));
      }
      if (!used) {
        std::vector<std::string> layers;
        for (const CoordinateAxis& axis : tracer_.axes())
          if (axis.is_root) layers.push_back(axis.layer);
        throw Error(ErrorKind::kConfig, Str("space.exclude: '", pattern, "' matches no layer"),
                    SuggestName(pattern, layers));
      }
    }
  }

  void CollectClasses() {
    const int64_t count = tracer_.coordinate_count();
    class_of_.assign(static_cast<size_t>(count), -1);
    for (const CoordinateAxis& axis : tracer_.axes())
      for (int64_t id = axis.first; id < axis.first + axis.count; ++id) {
        const int64_t representative = tracer_.Find(id);
        int32_t& known = class_of_[static_cast<size_t>(representative)];
        if (known < 0) {
          known = static_cast<int32_t>(classes_.size());
          classes_.emplace_back();
        }
        const int32_t index = known;
        class_of_[static_cast<size_t>(id)] = index;
        Class& owner = classes_[static_cast<size_t>(index)];
        owner.ids.push_back(id);
        if (axis.is_root && owner.root == 0) owner.root = id;
      }
    for (const auto& [id, reason] : tracer_.pins()) {
      Class& owner = classes_[static_cast<size_t>(class_of_[static_cast<size_t>(id)])];
      if (owner.reason < 0) owner.reason = reason;
    }
  }

  /// (first id of the axis, coordinates on it) for every axis a class touches: classes with the
  /// same pattern couple the same tensors in the same way and compete with each other.
  using Pattern = std::vector<std::pair<int64_t, int64_t>>;
  Pattern PatternOf(const Class& owner) const {
    Pattern pattern;
    for (const int64_t id : owner.ids) {
      const CoordinateAxis& axis = tracer_.AxisOf(id);
      if (pattern.empty() || pattern.back().first != axis.first) pattern.push_back({axis.first, 0});
      ++pattern.back().second;
    }
    return pattern;
  }

  void MakeGroups() {
    std::map<Pattern, std::vector<int32_t>> by_pattern;
    for (size_t c = 0; c < classes_.size(); ++c)
      if (classes_[c].root > 0 && classes_[c].reason < 0)
        by_pattern[PatternOf(classes_[c])].push_back(static_cast<int32_t>(c));
    std::vector<std::pair<int64_t, std::vector<int32_t>>> ordered;  // by first root coordinate
    for (auto& [pattern, members] : by_pattern) {
      std::sort(members.begin(), members.end(),
                [&](int32_t a, int32_t b) { return Root(a) < Root(b); });
      ordered.push_back({Root(members.front()), members});
    }
    std::sort(ordered.begin(), ordered.end());
    std::set<std::string> names;
    for (const auto& [root, members] : ordered) AddGroup(members, names);
  }

  int64_t Root(int32_t index) const { return classes_[static_cast<size_t>(index)].root; }

  void AddGroup(const std::vector<int32_t>& members, std::set<std::string>& names) {
    Group group;
    group.name = UniqueName(ModuleOf(tracer_.AxisOf(Root(members.front())).parameter), names);
    group.kind = "channel";
    group.units = static_cast<int64_t>(members.size());
    std::vector<std::pair<int64_t, size_t>> runs_of;  // (runs, member)
    for (const auto& [first, per_unit] :
         PatternOf(classes_[static_cast<size_t>(members.front())])) {
      const CoordinateAxis& axis = tracer_.AxisOf(first);
      if (axis.parameter.empty()) continue;  // padding: only literals follow
      Member member{axis.parameter, axis.axis, axis.blocks, axis.role, per_unit, {}};
      for (const int32_t unit : members)
        for (const int64_t id : classes_[static_cast<size_t>(unit)].ids)
          if (id >= first && id < first + axis.count) member.indices.push_back(id - first);
      const int64_t runs = std::max(axis.blocks, axis.runs);
      if (runs > 1) runs_of.push_back({runs, group.members.size()});
      group.blocks = std::max(group.blocks, runs);
      group.members.push_back(std::move(member));
    }
    if (!BlocksFit(group, runs_of)) {
      for (const int32_t unit : members) {
        tracer_.Pin(Root(unit),
                    Str("'", group.name, "': convolution groups of different structure"));
        classes_[static_cast<size_t>(unit)].reason =
            static_cast<int32_t>(tracer_.reasons().size()) - 1;
      }
      return;
    }
    space_.offsets_.push_back(space_.total_units_);
    for (const int32_t unit : members)
      classes_[static_cast<size_t>(unit)].unit = static_cast<int32_t>(space_.total_units_++);
    space_.groups_.push_back(std::move(group));
  }

  static std::string UniqueName(const std::string& base, std::set<std::string>& names) {
    std::string name = base;
    for (int copy = 2; !names.insert(name).second; ++copy) name = Str(base, "#", copy);
    return name;
  }

  /// Blocks are expressible when every axis made of runs splits the units, in order, equally.
  static bool BlocksFit(const Group& group,
                        const std::vector<std::pair<int64_t, size_t>>& runs_of) {
    for (const auto& [runs, index] : runs_of) {
      const Member& member = group.members[index];
      if (group.blocks % runs != 0 || group.units % runs != 0 || member.per_unit != 1) return false;
      const auto count = static_cast<int64_t>(member.indices.size());
      const int64_t run = group.units / runs;
      const int64_t width = *std::max_element(member.indices.begin(), member.indices.end()) + 1;
      if (width > count) return false;  // a part of the axis belongs to other groups
      for (int64_t unit = 0; unit < count; ++unit)
        if (member.indices[static_cast<size_t>(unit)] / run != unit / run) return false;
    }
    return group.units % group.blocks == 0;
  }

  int32_t UnitOf(int64_t id) const {
    if (id <= 0) return -1;
    return classes_[static_cast<size_t>(class_of_[static_cast<size_t>(id)])].unit;
  }

  void MakeReads() {
    for (const LabelTracer::Read& read : tracer_.reads()) {
      ReadPoint point{read.op, read.arg, read.element, read.axis, {}};
      bool any = false;
      for (const int64_t id : read.ids) {
        point.unit.push_back(UnitOf(id));
        any = any || point.unit.back() >= 0;
      }
      if (any) space_.reads_.push_back(std::move(point));
    }
  }

  void MakePins() {
    for (const CoordinateAxis& axis : tracer_.axes()) {
      if (!axis.is_root) continue;
      std::map<int32_t, int64_t> counts;  // reason -> coordinates
      for (int64_t id = axis.first; id < axis.first + axis.count; ++id) {
        const Class& owner = classes_[static_cast<size_t>(class_of_[static_cast<size_t>(id)])];
        if (owner.reason >= 0) ++counts[owner.reason];
      }
      for (const auto& [reason, count] : counts)
        space_.pins_.push_back(
            {axis.parameter, axis.axis, count, tracer_.reasons()[static_cast<size_t>(reason)]});
    }
  }

  AxisCount CountAxis(const std::vector<int32_t>& units) const {
    std::map<int32_t, int64_t> coordinates;  // group -> coordinates
    AxisCount axis;
    for (const int32_t unit : units) {
      if (unit < 0)
        ++axis.constant;
      else
        ++coordinates[space_.group_of_unit(unit)];
    }
    for (const auto& [group, count] : coordinates)
      axis.terms.push_back({group, count / space_.groups_[static_cast<size_t>(group)].units});
    return axis;
  }

  void SetAxis(ValueShape& shape, size_t axis, const std::vector<int64_t>& ids) {
    std::vector<int32_t> units;
    bool any = false;
    for (const int64_t id : ids) {
      units.push_back(UnitOf(id));
      any = any || units.back() >= 0;
    }
    if (!any) return;
    shape.axes[axis] = CountAxis(units);
    shape.unit[axis] = std::move(units);
  }

  void MakeValues() {
    const Graph& graph = space_.network_.graph;
    for (size_t id = 0; id < graph.values.size(); ++id) {
      ValueShape shape;
      shape.sizes = tracer_.meta()[id].sizes;
      for (const int64_t size : shape.sizes) shape.axes.push_back({size, {}});
      shape.blocks.assign(shape.sizes.size(), 1);
      shape.unit.resize(shape.sizes.size());
      if (!graph.values[id].target.empty()) {
        const std::string& name = space_.network_.store.Canonical(graph.values[id].target);
        for (size_t axis = 0; axis < shape.sizes.size(); ++axis)
          if (const auto* known = tracer_.FindAxis(name, static_cast<int64_t>(axis))) {
            SetAxis(shape, axis, LabelTracer::Ids(*known));
            if (known->blocks > 1 && !shape.unit[axis].empty()) shape.blocks[axis] = known->blocks;
          }
      } else if (const Labels& labels = tracer_.labels(static_cast<ValueId>(id));
                 labels.defined()) {
        for (int64_t axis = 0; axis < labels.ids.dim(); ++axis)
          if (labels.ids.size(axis) > 1)
            SetAxis(shape, static_cast<size_t>(axis), LastIds(labels, axis));
      }
      space_.values_.push_back(std::move(shape));
    }
  }

  /// Labels along one axis; the others hold one entry, or spatial filler that never wins.
  static std::vector<int64_t> LastIds(const Labels& labels, int64_t axis) {
    const Tensor rows = labels.ids.movedim(axis, 0).reshape({labels.ids.size(axis), -1}).amax(1);
    return {rows.const_data_ptr<int64_t>(), rows.const_data_ptr<int64_t>() + rows.numel()};
  }

  const SpaceOptions options_;
  LabelTracer tracer_;
  Space space_;
  std::vector<Class> classes_;
  std::vector<int32_t> class_of_;  // by coordinate id
};

int32_t Space::group_of_unit(int64_t unit) const {
  const auto after = std::upper_bound(offsets_.begin(), offsets_.end(), unit);
  return static_cast<int32_t>(after - offsets_.begin()) - 1;
}

int32_t Space::FindGroup(const std::string& name) const {
  for (size_t g = 0; g < groups_.size(); ++g)
    if (groups_[g].name == name) return static_cast<int32_t>(g);
  return -1;
}

Space BuildSpace(const Network& network, const SpaceOptions& options) {
  if (!options.decouple_residuals) return SpaceBuilder(network, options).Build();
  const Network decoupled = DecoupleResiduals(network);
  return SpaceBuilder(decoupled, options).Build();
}

std::vector<Gate> ReadGates(const Space& space, const Tensor& factors) {
  ESPALIER_CHECK(factors.dim() == 1 && factors.size(0) == space.total_units(), "gates: got ",
                 factors.sizes(), " factors for ", space.total_units(), " units");
  // Reads of the same units share one multiplier, so that the executor multiplies a value once.
  std::map<std::vector<int32_t>, Tensor> multipliers;
  const Tensor padded = at::cat({factors, at::ones({1}, factors.options())});  // last: factor 1
  std::vector<Gate> gates;
  for (const ReadPoint& read : space.reads()) {
    Tensor& multiplier = multipliers[read.unit];
    if (!multiplier.defined()) {
      std::vector<int64_t> index(read.unit.begin(), read.unit.end());
      for (int64_t& unit : index)
        if (unit < 0) unit = space.total_units();
      multiplier = padded.index_select(0, at::tensor(index, at::kLong).to(factors.device()));
    }
    gates.push_back({read.op, read.arg, read.element, read.axis, multiplier});
  }
  return gates;
}

}  // namespace espalier

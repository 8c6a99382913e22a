#include "env/space/unit_classes.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <map>
#include <set>

#include "env/base/error.h"

namespace espalier {

UnitClasses::UnitClasses(LabelTracer& tracer) : tracer_(tracer) {
  JoinElements();
  JoinSlabs();
  Collect();
  NumberPatterns();
  CheckElements();
  CollectBlocks();
  CollectSlabs();
  SettlePins();
}

void UnitClasses::Pin(int32_t index, const std::string& reason) {
  UnitClass& owner = (*this)[index];
  if (owner.reason >= 0) return;
  tracer_.Pin(owner.first, reason);
  owner.reason = tracer_.pins().back().reason;
}

/// A tensor known by axes and by elements: the axis' coordinate is that of all its elements.
/// Elements nothing has met (positions beyond the recorded length) go with the rest of their index.
void UnitClasses::JoinElements() {
  bool any = false;
  for (const CoordinateAxis& elements : tracer_.axes()) {
    if (elements.kind != CoordinateAxis::Kind::kElements) continue;
    any = true;
    const auto sizes = tracer_.StoredSizes(elements.parameter);
    int64_t inner = elements.count;
    for (size_t axis = 0; axis < sizes.size(); ++axis) {
      inner /= sizes[axis];
      const auto* known = tracer_.FindAxis(elements.parameter, static_cast<int64_t>(axis));
      if (known == nullptr) continue;
      const int64_t block = elements.count / known->blocks;
      for (int64_t i = 0; i < elements.count; ++i) {
        const int64_t before = known->blocks > 1 && axis > 0 ? i / block * sizes[axis] : 0;
        tracer_.Union(elements.first + i, known->first + before + i / inner % sizes[axis]);
      }
    }
  }
  if (!any) return;
  std::vector<int32_t> members(static_cast<size_t>(tracer_.coordinate_count()), 0);
  for (int64_t id = 1; id < tracer_.coordinate_count(); ++id)
    ++members[static_cast<size_t>(tracer_.Find(id))];
  for (const CoordinateAxis& elements : tracer_.axes()) {
    if (elements.kind != CoordinateAxis::Kind::kElements) continue;
    const auto sizes = tracer_.StoredSizes(elements.parameter);
    int64_t inner = elements.count;
    for (const int64_t size : sizes) {
      inner /= size;
      std::vector<int64_t> met(static_cast<size_t>(size), 0);  // by index: the one class met there
      bool fits = true;
      for (int64_t i = 0; i < elements.count && fits; ++i) {
        const int64_t owner = tracer_.Find(elements.first + i);
        int64_t& known = met[static_cast<size_t>(i / inner % size)];
        if (members[static_cast<size_t>(owner)] == 1) continue;
        fits = known == 0 || known == owner;
        known = owner;
      }
      const std::set<int64_t> distinct(met.begin(), met.end());
      if (!fits || distinct.size() < 2) continue;
      // An index that nothing has met (the second of a pair, whose numbers are not used) goes with
      // the one before it.
      int64_t before = *std::ranges::find_if(met, [](int64_t id) { return id != 0; });
      for (int64_t& id : met) before = id = id == 0 ? before : id;
      for (int64_t i = 0; i < elements.count; ++i)
        tracer_.Union(elements.first + i, met[static_cast<size_t>(i / inner % size)]);
      break;
    }
  }
}

/// A slab whose coordinates turned out to go together goes with them; slabs of the same classes are
/// one.
void UnitClasses::JoinSlabs() {
  for (bool changed = true; changed;) {
    changed = false;
    std::map<std::vector<int64_t>, int64_t> known;  // classes, by their lowest ids -> slab
    for (const auto& [slab, members] : tracer_.slabs()) {
      std::vector<int64_t> covered;
      for (const int64_t member : members) covered.push_back(tracer_.Find(member));
      std::sort(covered.begin(), covered.end());
      covered.erase(std::unique(covered.begin(), covered.end()), covered.end());
      const int64_t twin = covered.size() == 1
                               ? covered.front()
                               : known.try_emplace(std::move(covered), slab).first->second;
      if (tracer_.Find(slab) == tracer_.Find(twin)) continue;
      tracer_.Union(slab, twin);
      changed = true;
    }
  }
}

UnitClasses::ElementsCut UnitClasses::FindCut(const CoordinateAxis& elements) const {
  const auto sizes = tracer_.StoredSizes(elements.parameter);
  const Tensor classes =
      ClassesOf(at::arange(elements.first, elements.first + elements.count, at::kLong).view(sizes));
  const std::vector<int64_t> varying = VaryingAxes(classes);
  if (varying.size() == 1) return {varying[0], 1};
  if (varying.size() == 2 && varying[0] == 0) return {varying[1], sizes[0]};
  return {};
}

/// A tensor that is cut along two axes at once cannot be sliced.
void UnitClasses::CheckElements() {
  for (const CoordinateAxis& elements : tracer_.axes()) {
    if (elements.kind != CoordinateAxis::Kind::kElements) continue;
    if ((cuts_[elements.first] = FindCut(elements)).axis >= 0) continue;
    for (int64_t id = elements.first; id < elements.first + elements.count; ++id)
      if (const int32_t index = Of(id); (*this)[index].free())
        Pin(index, Str("'", elements.parameter, "' would be cut along several axes"));
  }
}

void UnitClasses::Collect() {
  const auto count = static_cast<size_t>(tracer_.coordinate_count());
  class_of_.assign(count, -1);
  std::vector<size_t> sizes;  // by class: coordinates that are no slabs
  for (const CoordinateAxis& axis : tracer_.axes()) {
    const bool is_slab = axis.kind == CoordinateAxis::Kind::kSlab;
    for (int64_t id = axis.first; id < axis.first + axis.count; ++id) {
      // The representative is the lowest coordinate, so it has its class by now.
      const int64_t lowest = tracer_.Find(id);
      if (lowest == id) {
        class_of_[static_cast<size_t>(id)] = static_cast<int32_t>(classes_.size());
        classes_.emplace_back().first = id;
        sizes.push_back(0);
      }
      const int32_t index = class_of_[static_cast<size_t>(lowest)];
      class_of_[static_cast<size_t>(id)] = index;
      sizes[static_cast<size_t>(index)] += !is_slab;
      if (is_slab) (*this)[index].is_slab = true;
      if (axis.is_root && (*this)[index].root == 0) (*this)[index].root = id;
    }
  }
  ids_.resize(count);
  std::vector<int64_t*> next;  // by class: where its next coordinate goes
  int64_t* start = ids_.data();
  for (size_t c = 0; c < classes_.size(); start += sizes[c++]) {
    classes_[c].ids = {start, sizes[c]};
    next.push_back(start);
  }
  for (const CoordinateAxis& axis : tracer_.axes())
    if (axis.kind != CoordinateAxis::Kind::kSlab)
      for (int64_t id = axis.first; id < axis.first + axis.count; ++id)
        *next[static_cast<size_t>(Of(id))]++ = id;
  for (const auto& [id, reason] : tracer_.pins()) {
    UnitClass& owner = (*this)[Of(id)];
    if (owner.reason < 0) owner.reason = reason;
  }
}

/// A class walks from pattern to pattern, one step a coordinate. Axes are visited in order, so each
/// pattern has to know the last axis that was stepped to from it only.
void UnitClasses::NumberPatterns() {
  struct Step {
    int32_t axis = -1, to = 0;
  };
  std::vector<Step> steps(1);                         // by pattern; 0 is the empty one
  std::vector<int32_t> patterns(classes_.size(), 0);  // by class
  for (const CoordinateAxis& axis : tracer_.axes()) {
    if (axis.kind == CoordinateAxis::Kind::kSlab) continue;
    for (int64_t id = axis.first; id < axis.first + axis.count; ++id) {
      int32_t& pattern = patterns[static_cast<size_t>(Of(id))];
      const int32_t number = tracer_.AxisIndex(id);
      if (Step& step = steps[static_cast<size_t>(pattern)]; step.axis != number) {
        step = {number, static_cast<int32_t>(steps.size())};
        pattern = step.to;
        steps.emplace_back();
      } else {
        pattern = step.to;
      }
    }
  }
  pattern_count_ = static_cast<int32_t>(steps.size());
  for (size_t c = 0; c < classes_.size(); ++c) classes_[c].pattern = patterns[c];
}

Tensor UnitClasses::ClassesOf(const Tensor& ids) const {
  Tensor classes = at::empty(ids.sizes(), at::kLong);
  const Tensor from = ids.contiguous();
  // Filler stays 0 and classes count from 1, so that Compress sees through spatial padding.
  std::transform(from.const_data_ptr<int64_t>(), from.const_data_ptr<int64_t>() + from.numel(),
                 classes.mutable_data_ptr<int64_t>(),
                 [&](int64_t id) { return id > 0 ? Of(id) + 1 : id; });
  return Compress(classes);
}

int64_t UnitClasses::InnerAxis(const Tensor& classes) const {
  const int64_t inner = espalier::InnerAxis(
      classes, [&](int64_t number) { return (*this)[static_cast<int32_t>(number - 1)].first; });
  return inner >= 0 ? inner : VaryingAxes(classes).back();
}

void UnitClasses::CollectBlocks() {
  for (const LabelTracer::Runs& runs : tracer_.runs()) {
    const size_t length = runs.ids.size() / static_cast<size_t>(runs.runs);
    std::vector<std::vector<int32_t>> slabs;
    for (size_t i = 0; i < runs.ids.size(); ++i) {
      if (i % length == 0) slabs.emplace_back();
      slabs.back().push_back(Of(runs.ids[i]));
    }
    AddBlocks(std::move(slabs), runs.where);
  }
  const Graph& graph = tracer_.network().graph;
  std::set<const void*> seen;
  for (size_t id = 0; id < graph.values.size(); ++id) {
    const Tensor& ids = tracer_.labels(static_cast<ValueId>(id)).ids;
    if (!ids.defined() || VaryingAxes(ids).size() < 2 ||
        !seen.insert(ids.unsafeGetTensorImpl()).second)
      continue;
    const Tensor classes = ClassesOf(ids);
    if (VaryingAxes(classes).size() < 2) continue;
    const int64_t inner = InnerAxis(classes);
    const Tensor rows = classes.movedim(inner, -1).reshape({-1, classes.size(inner)}).contiguous();
    const int64_t* data = rows.const_data_ptr<int64_t>();
    std::vector<std::vector<int32_t>> slabs;
    for (int64_t row = 0; row < rows.size(0); ++row) {
      slabs.emplace_back();
      for (int64_t i = 0; i < rows.size(1); ++i)
        slabs.back().push_back(static_cast<int32_t>(data[row * rows.size(1) + i]) - 1);
    }
    const int32_t producer = graph.values[id].producer;
    const Op* op = producer < 0 ? nullptr : &graph.ops[static_cast<size_t>(producer)];
    AddBlocks(std::move(slabs),
              op ? Str(op->target(), " at '", op->module_path, "'") : graph.values[id].name);
  }
}

/// Slabs that are the same set count once; those that overlap in part cannot be expressed.
void UnitClasses::AddBlocks(std::vector<std::vector<int32_t>> slabs, const std::string& where) {
  for (auto& slab : slabs) {
    std::sort(slab.begin(), slab.end());
    std::erase_if(slab, [](int32_t index) { return index < 0; });
  }
  std::sort(slabs.begin(), slabs.end());
  slabs.erase(std::unique(slabs.begin(), slabs.end()), slabs.end());
  if (slabs.size() < 2) return;
  // By the room a class takes in a slab: each kind has to lose as many classes in every slab.
  std::map<int64_t, std::vector<std::vector<int32_t>>> kinds;
  for (size_t s = 0; s < slabs.size(); ++s)
    for (auto run = slabs[s].begin(); run != slabs[s].end();) {
      const auto end = std::upper_bound(run, slabs[s].end(), *run);
      auto& kind = kinds[end - run];
      kind.resize(slabs.size());
      kind[s].push_back(*run);
      run = end;
    }
  for (auto& [room, kind] : kinds) AddBlocksOfOneKind(std::move(kind), where);
}

void UnitClasses::AddBlocksOfOneKind(std::vector<std::vector<int32_t>> slabs,
                                     const std::string& where) {
  std::sort(slabs.begin(), slabs.end());
  slabs.erase(std::unique(slabs.begin(), slabs.end()), slabs.end());
  if (slabs.size() < 2) return;
  for (const Blocks& known : blocks_)
    if (known.slabs == slabs) return;
  std::map<int32_t, size_t> owner;
  bool overlap = false;
  for (size_t s = 0; s < slabs.size(); ++s)
    for (const int32_t index : slabs[s]) {
      const auto [entry, fresh] = owner.try_emplace(index, s);
      overlap = overlap || (!fresh && entry->second != s);
    }
  if (overlap) {
    for (const auto& [index, slab] : owner)
      Pin(index, Str(where, ": runs along two axes that share units"));
    return;
  }
  blocks_.push_back({std::move(slabs), where});
}

void UnitClasses::CollectSlabs() {
  for (const auto& [id, members] : tracer_.slabs()) {
    UnitClass& slab = (*this)[Of(id)];
    for (const int64_t member : members) slab.covered.push_back(Of(member));
  }
  for (size_t i = 0; i < classes_.size(); ++i) {
    UnitClass& slab = classes_[i];
    if (!slab.is_slab) continue;
    std::sort(slab.covered.begin(), slab.covered.end());
    slab.covered.erase(std::unique(slab.covered.begin(), slab.covered.end()), slab.covered.end());
    // A slab of coordinates that turned out to be one class is that class.
    std::erase(slab.covered, static_cast<int32_t>(i));
    slab.is_slab = !slab.covered.empty();
  }
  for (size_t i = 0; i < classes_.size(); ++i) {
    if (!classes_[i].is_slab) continue;
    const auto index = static_cast<int32_t>(i);
    for (const int32_t member : classes_[i].covered) {
      UnitClass& dim = (*this)[member];
      if (dim.is_slab) {
        Pin(index, "a set of heads that contains another");
      } else if (dim.parent >= 0 && dim.parent != index) {
        Pin(index, "shares dims with another head");
        Pin(dim.parent, "shares dims with another head");
      } else {
        dim.parent = index;
      }
    }
  }
}

/// Pins spread: blocks must have as many free classes each, and a head goes only as a whole.
void UnitClasses::SettlePins() {
  for (bool changed = true; changed;) {
    changed = false;
    for (const Blocks& blocks : blocks_) {
      std::set<size_t> counts;
      for (const auto& slab : blocks.slabs)
        counts.insert(static_cast<size_t>(std::count_if(
            slab.begin(), slab.end(), [&](int32_t index) { return (*this)[index].free(); })));
      if (counts.size() < 2) continue;
      for (const auto& slab : blocks.slabs)
        for (const int32_t index : slab)
          if ((*this)[index].free()) {
            Pin(index, Str(blocks.where, ": its other blocks cannot lose as many"));
            changed = true;
          }
    }
  }
  std::vector<const UnitClass*> owner(classes_.size());  // the slab looked at last that covers it
  for (UnitClass& slab : classes_) {
    if (!slab.is_slab || slab.reason >= 0) continue;
    for (const int32_t member : slab.covered)
      if (!(*this)[member].free()) {
        Pin(Of(slab.first), "a head with dims that cannot be cut");
        break;
      }
    if (slab.reason >= 0) continue;
    // In every block structure a head is whole blocks, or the others would lack a part.
    for (const int32_t member : slab.covered) owner[static_cast<size_t>(member)] = &slab;
    for (const Blocks& blocks : blocks_)
      for (const auto& part : blocks.slabs) {
        const auto inside = std::count_if(part.begin(), part.end(), [&](int32_t index) {
          return owner[static_cast<size_t>(index)] == &slab;
        });
        if (inside != 0 && inside != static_cast<int64_t>(part.size()))
          Pin(Of(slab.first), Str(blocks.where, ": a head is not a whole block there"));
      }
  }
}

}  // namespace espalier

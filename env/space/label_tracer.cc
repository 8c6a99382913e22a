#include "env/space/label_tracer.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "env/base/error.h"
#include "env/space/constants.h"
#include "env/space/label_rules.h"
#include "env/space/rewrite.h"

namespace espalier {
namespace {

/// Larger stored tensors get no coordinate per element: a table of a whole vocabulary, say.
constexpr int64_t kMostElements = int64_t{1} << 22;

}  // namespace

LabelTracer::LabelTracer(Network& network, std::vector<ValueMeta> meta)
    : network_(network), meta_(std::move(meta)), labels_(network.graph.values.size()) {
  parent_ = {0};  // id 0 means filler
  axis_of_ = {-1};
}

void LabelTracer::Run() {
  const at::NoGradGuard no_grad;
  for (size_t i = 0; i < network_.graph.ops.size(); ++i)
    ApplyLabelRule(*this, static_cast<int32_t>(i));
  for (const auto& [value, op] : rigid_)
    PinRigid(value, network_.graph.ops[static_cast<size_t>(op)]);
  for (const ValueId output : network_.graph.outputs) PinAll(labels(output).ids, "network output");
}

ValueId LabelTracer::StoredSource(ValueId value) const {
  for (auto moved = moved_.find(value); moved != moved_.end(); moved = moved_.find(value))
    value = moved->second.source;
  return value;
}

bool LabelTracer::IsKnown(ValueId value) const {
  if (labels(value).defined()) return true;
  const ValueId stored = StoredSource(value);
  return IsStored(stored) && stored_axes_.contains(StoredName(stored));
}

void LabelTracer::PinRigid(ValueId value, const Op& op) {
  const std::string reason =
      Str(op.target(), " at '", op.module_path, "': reads it with data that cannot be cut");
  if (labels(value).defined()) return PinAll(labels(value).ids, reason);
  const ValueId stored = StoredSource(value);
  if (!IsStored(stored)) return;
  const auto places = stored_axes_.find(StoredName(stored));
  if (places == stored_axes_.end()) return;
  for (const int32_t place : places->second) {
    if (place < 0) continue;
    const CoordinateAxis& axis = axes_[static_cast<size_t>(place)];
    PinAll(Make(Ids(axis), {axis.count}), reason);
  }
}

CoordinateAxis& LabelTracer::AddAxis(CoordinateAxis axis) {
  axis.first = coordinate_count();
  const int64_t end = axis.first + axis.count;
  ESPALIER_CHECK(end <= std::numeric_limits<int32_t>::max(), end, " coordinates");
  axis_of_.resize(static_cast<size_t>(end), static_cast<int32_t>(axes_.size()));
  parent_.resize(static_cast<size_t>(end));
  std::iota(parent_.begin() + axis.first, parent_.end(), static_cast<int32_t>(axis.first));
  axes_.push_back(std::move(axis));
  return axes_.back();
}

const std::string& LabelTracer::StoredName(ValueId value) const {
  ESPALIER_CHECK(IsStored(value), "value ", value, " is not a stored tensor");
  return network_.store.Canonical(network_.graph.values[static_cast<size_t>(value)].target);
}

int32_t& LabelTracer::StoredPlace(const std::string& parameter, int64_t axis) {
  std::vector<int32_t>& places = stored_axes_[parameter];
  if (places.empty()) places.assign(StoredSizes(parameter).size() + 1, -1);
  return places.at(static_cast<size_t>(axis + 1));
}

CoordinateAxis& LabelTracer::StoredAxis(ValueId value, int64_t axis, MemberRole role, bool is_root,
                                        const std::string& layer, int64_t blocks, int64_t count) {
  const std::string& name = StoredName(value);
  int32_t& place = StoredPlace(name, axis);
  if (place < 0) {
    place = static_cast<int32_t>(axes_.size());
    return AddAxis({.parameter = name,
                    .axis = axis,
                    .blocks = blocks,
                    .role = role,
                    .count = count >= 0 ? count : sizes(value)[static_cast<size_t>(axis)],
                    .is_root = is_root,
                    .layer = layer});
  }
  CoordinateAxis& known = axes_[static_cast<size_t>(place)];
  if (known.blocks != blocks)  // one tensor used with and without convolution groups
    for (int64_t i = 0; i < known.count; ++i)
      Pin(known.first + i, Str("'", name, "' is used in several block structures"));
  known.is_root = known.is_root || is_root;
  if (role == MemberRole::kProducer) known.role = role;
  return known;
}

Tensor LabelTracer::StoredElements(ValueId value, const std::string& layer) {
  int64_t count = 1;
  for (const int64_t size : sizes(value)) count *= size;
  if (count > kMostElements || count == 0) return {};
  int32_t& place = StoredPlace(StoredName(value), -1);
  if (place < 0) {
    place = static_cast<int32_t>(axes_.size());
    AddAxis({.kind = CoordinateAxis::Kind::kElements,
             .parameter = StoredName(value),
             .axis = -1,
             .count = count,
             .layer = layer});
  }
  const int64_t first = axes_[static_cast<size_t>(place)].first;
  return at::arange(first, first + count, at::kLong).view(sizes(value));
}

Tensor LabelTracer::Usable(ValueId value, const std::string& layer) {
  if (value == kNoValue) return {};
  if (labels(value).defined()) return labels(value).ids;
  if (!HoldsNumbers(MetaOf(value).dtype)) return {};
  if (IsStored(value)) return StoredElements(value, layer);
  const auto moved = moved_.find(value);
  if (moved == moved_.end()) return {};
  const Moved from = moved->second;
  const Tensor source = Usable(from.source, layer);
  if (!source.defined()) return {};
  const Op& op = network_.graph.ops[static_cast<size_t>(from.op)];
  const Tensor full = source.expand(sizes(from.source));
  if (op.handle.operator_name().name == "aten::index") {  // any slice may be picked
    const Tensor all = full.contiguous(),
                 first = full.select(0, 0).expand(full.sizes()).contiguous();
    for (int64_t i = 0; i < all.numel(); ++i)
      Union(all.const_data_ptr<int64_t>()[i], first.const_data_ptr<int64_t>()[i]);
  }
  const auto results = RunMovement(op, full, meta_);
  if (results.size() <= from.output) return {};
  Set(value, Compress(results[from.output]));
  return labels(value).ids;
}

LabelTracer::Origin LabelTracer::OriginOf(ValueId value, int64_t axis) const {
  std::vector<Moved> chain;
  ValueId stored = value;
  for (auto found = moved_.find(stored); found != moved_.end(); found = moved_.find(stored)) {
    chain.insert(chain.begin(), found->second);
    stored = found->second.source;
  }
  if (!IsStored(stored)) return {};
  // Follow each stored axis through the movements: one of them ends up along `axis`.
  const auto rank = static_cast<int64_t>(sizes(stored).size());
  for (int64_t from = 0; from < rank; ++from) {
    std::vector<int64_t> numbers(sizes(stored)[static_cast<size_t>(from)]);
    std::iota(numbers.begin(), numbers.end(), 1);
    Tensor moved = Along(rank, from, numbers).expand(sizes(stored));
    for (const Moved& step : chain) {
      const auto results =
          RunMovement(network_.graph.ops[static_cast<size_t>(step.op)], moved, meta_);
      if (results.size() <= step.output) return {};
      moved = results[step.output];
    }
    const Tensor ids = Compress(moved);
    if (VaryingAxes(ids) != std::vector<int64_t>{axis}) continue;
    const Tensor row = (ids.reshape({-1}) - 1).contiguous();
    const int64_t* data = row.const_data_ptr<int64_t>();
    return {stored, from, {data, data + row.numel()}};
  }
  return {};
}

std::vector<int64_t> LabelTracer::WeightIds(ValueId value, int64_t axis, MemberRole role,
                                            bool is_root, const std::string& layer) {
  if (IsStored(value)) return Ids(StoredAxis(value, axis, role, is_root, layer));
  const Origin origin = OriginOf(value, axis);
  if (origin.stored == kNoValue) return {};
  const CoordinateAxis& coordinates = StoredAxis(origin.stored, origin.axis, role, is_root, layer);
  std::vector<int64_t> ids = origin.places;
  for (int64_t& id : ids) id += coordinates.first;
  return ids;
}

std::vector<int64_t> LabelTracer::KnownWeightIds(ValueId value, int64_t axis) {
  if (!IsMovedStored(value)) return {};
  const Origin origin = OriginOf(value, axis);
  if (origin.stored == kNoValue) return {};
  const CoordinateAxis* known = FindAxis(StoredName(origin.stored), origin.axis);
  if (known == nullptr) return {};
  std::vector<int64_t> ids;
  for (int64_t block = 0; block < known->blocks; ++block)
    for (const int64_t place : origin.places)
      ids.push_back(known->first + block * (known->count / known->blocks) + place);
  return ids;
}

int64_t LabelTracer::InnerAxis(const Tensor& ids) {
  return espalier::InnerAxis(ids, [&](int64_t id) { return Find(id); });
}

const CoordinateAxis& LabelTracer::PhantomAxis(int64_t count, const std::string& layer) {
  return AddAxis({.kind = CoordinateAxis::Kind::kPhantom, .count = count, .layer = layer});
}

void LabelTracer::Union(int64_t a, int64_t b) {
  if (a <= 0 || b <= 0 || a == b) return;
  const auto [low, high] = std::minmax({Find(a), Find(b)});
  parent_[static_cast<size_t>(high)] = static_cast<int32_t>(low);
}

int32_t LabelTracer::Reason(const std::string& text) {
  const auto [entry, fresh] = reason_ids_.try_emplace(text, static_cast<int32_t>(reasons_.size()));
  if (fresh) reasons_.push_back(text);
  return entry->second;
}

void LabelTracer::PinAll(const Tensor& ids, const std::string& reason) {
  if (!ids.defined()) return;
  const Tensor flat = ids.reshape({-1}).contiguous();
  const int64_t* data = flat.const_data_ptr<int64_t>();
  if (std::none_of(data, data + flat.numel(), [](int64_t id) { return id > 0; })) return;
  const int32_t number = Reason(reason);
  for (int64_t i = 0; i < flat.numel(); ++i) Pin(data[i], number);
}

void LabelTracer::AddRead(int32_t op, int32_t arg, int32_t element, Tensor ids) {
  reads_.push_back({op, arg, element, std::move(ids)});
}

void LabelTracer::AddRuns(std::vector<int64_t> ids, int64_t runs, std::string where) {
  if (runs > 1) runs_.push_back({std::move(ids), runs, std::move(where)});
}

std::vector<int64_t> LabelTracer::AxisIds(ValueId value, int64_t axis, const std::string& where) {
  const int64_t count = sizes(value)[static_cast<size_t>(axis)];
  const Labels& all = labels(value);
  if (!all.defined() || count == 0) return std::vector<int64_t>(static_cast<size_t>(count), -1);
  const int64_t along = all.ids.size(axis);  // 1 or count
  const Tensor rows =                        // [along, rest]
      all.ids.numel() == along ? all.ids.contiguous() : all.ids.movedim(axis, 0).contiguous();
  const int64_t* data = rows.const_data_ptr<int64_t>();
  const int64_t rest = rows.numel() / along;
  if (along > 1 && rest > 1)
    for (int64_t other = 0; other < all.ids.dim(); ++other)
      if (other != axis && all.ids.size(other) > 1)
        PinAll(Slabs(all.ids, {other}), Str(where, ": treats all of them alike"));
  std::vector<int64_t> ids(static_cast<size_t>(count), 0);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t* row = data + (along == 1 ? 0 : i) * rest;
    bool rigid = false;
    int64_t& id = ids[static_cast<size_t>(i)];
    for (int64_t j = 0; j < rest; ++j) {
      if (row[j] < 0) rigid = true;
      if (row[j] <= 0) continue;
      Union(id, row[j]);
      if (id == 0) id = row[j];
    }
    if (rigid && id > 0) Pin(id, Str(where, ": joined with data that cannot be cut"));
    if (rigid && id == 0) id = -1;
  }
  if (along == 1 && count > 1 && ids[0] > 0) {
    // One label for a whole axis that is contracted: the unit is not a slice of this axis.
    Pin(ids[0], Str(where, ": read along an axis it does not run along"));
    std::fill(ids.begin(), ids.end(), -1);
  }
  return ids;
}

Tensor LabelTracer::Slabs(const Tensor& ids, const std::vector<int64_t>& kept) {
  std::vector<int64_t> order = kept, shape(static_cast<size_t>(ids.dim()), 1);
  for (int64_t d = 0; d < ids.dim(); ++d)
    if (std::find(kept.begin(), kept.end(), d) == kept.end()) order.push_back(d);
  int64_t rows = 1;
  for (const int64_t d : kept) {
    shape[static_cast<size_t>(d)] = ids.size(d);
    rows *= ids.size(d);
  }
  // Row-major over the kept axes in ascending order, whatever order they were named in.
  ESPALIER_CHECK(std::is_sorted(kept.begin(), kept.end()), "axes not ascending");
  const Tensor flat = ids.permute(order).reshape({rows, -1}).contiguous();
  const int64_t* data = flat.const_data_ptr<int64_t>();
  std::vector<int64_t> slabs;
  for (int64_t row = 0; row < rows; ++row) {
    std::vector<int64_t> members(data + row * flat.size(1), data + (row + 1) * flat.size(1));
    bool rigid = false;
    for (int64_t& id : members) {
      rigid = rigid || id < 0;
      if (id > 0) id = Find(id);
    }
    std::sort(members.begin(), members.end());
    members.erase(std::unique(members.begin(), members.end()), members.end());
    std::erase_if(members, [](int64_t id) { return id <= 0; });
    if (rigid || members.empty()) {
      slabs.push_back(rigid ? -1 : 0);
    } else if (members.size() == 1) {
      slabs.push_back(members.front());
    } else {
      const auto [entry, fresh] = slab_ids_.try_emplace(members, 0);
      if (fresh) {
        entry->second = AddAxis({.kind = CoordinateAxis::Kind::kSlab, .count = 1}).first;
        slabs_[entry->second] = members;
      }
      slabs.push_back(entry->second);
    }
  }
  return Make(slabs, shape);
}

Tensor LabelTracer::Canonical(const Tensor& ids) {
  Tensor found = ids.contiguous().clone();
  int64_t* data = found.mutable_data_ptr<int64_t>();
  for (int64_t i = 0; i < found.numel(); ++i)
    if (data[i] > 0) data[i] = Find(data[i]);
  return Compress(found);
}

Tensor LabelTracer::Along(int64_t rank, int64_t axis, const std::vector<int64_t>& ids) {
  std::vector<int64_t> shape(static_cast<size_t>(rank), 1);
  shape[static_cast<size_t>(axis)] = static_cast<int64_t>(ids.size());
  return Make(ids, shape);
}

Tensor LabelTracer::Make(const std::vector<int64_t>& ids, const std::vector<int64_t>& shape) {
  Tensor made = at::empty(shape, at::kLong);
  std::copy(ids.begin(), ids.end(), made.mutable_data_ptr<int64_t>());
  return made;
}

std::vector<int64_t> LabelTracer::Ids(const CoordinateAxis& axis) {
  std::vector<int64_t> ids(static_cast<size_t>(axis.count));
  std::iota(ids.begin(), ids.end(), axis.first);
  return ids;
}

const CoordinateAxis* LabelTracer::FindAxis(const std::string& parameter, int64_t axis) const {
  const auto found = stored_axes_.find(parameter);
  const int32_t place =
      found == stored_axes_.end() ? -1 : found->second[static_cast<size_t>(axis + 1)];
  return place < 0 ? nullptr : &axes_[static_cast<size_t>(place)];
}

const CoordinateAxis* LabelTracer::FindElements(const std::string& parameter) const {
  return FindAxis(parameter, -1);
}

ValueId LabelTracer::StoreConstant(ValueId value, const std::string& layer) {
  const auto [known, fresh] = constants_.try_emplace(value, kNoValue);
  if (!fresh) return known->second;
  int64_t count = 1;
  for (const int64_t size : sizes(value)) count *= size;
  if (count <= 1 || count > kMostElements || !at::isFloatingType(MetaOf(value).dtype))
    return kNoValue;
  const auto is_parameter = [&](const std::string& name) {
    return network_.store.Kind(name) == StoreKind::kParameter;
  };
  Tensor constant;
  if (const auto ops = OpsOfConstant(network_.graph, value)) {
    if (std::ranges::none_of(SourcesOf(network_, *ops), is_parameter))
      constant = Evaluate(network_, value, *ops);
  } else if (const auto repeated = OpsOfConstant(network_.graph, value, true)) {
    if (std::ranges::none_of(SourcesOf(network_, *repeated), is_parameter))
      constant = OfOneSample(network_, value, *repeated);
  }
  if (constant.defined())
    known->second = AddBuffer(layer.empty() ? "constant" : layer + ".constant", constant);
  return known->second;
}

ValueId LabelTracer::AddBuffer(const std::string& name, const Tensor& tensor) {
  meta_.push_back({tensor.sizes().vec(), tensor.scalar_type()});
  labels_.emplace_back();
  return AddStored(network_, name, tensor, StoreKind::kBuffer);
}

}  // namespace espalier

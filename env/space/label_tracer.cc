#include "env/space/label_tracer.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "env/base/error.h"

namespace espalier {

LabelTracer::LabelTracer(const Network& network)
    : network_(network), meta_(InferMeta(network, 1)), labels_(network.graph.values.size()) {
  Mint(1);  // id 0 means filler
}

void LabelTracer::Run() {
  const at::NoGradGuard no_grad;
  for (size_t i = 0; i < network_.graph.ops.size(); ++i)
    ApplyLabelRule(*this, static_cast<int32_t>(i));
  for (const ValueId output : network_.graph.outputs) PinAll(labels(output), "network output");
}

int64_t LabelTracer::Mint(int64_t count) {
  const auto first = static_cast<int64_t>(rank_.size());
  for (int64_t i = 0; i < count; ++i) {
    rank_.push_back(0);
    parent_.push_back(first + i);
  }
  sets_ = boost::disjoint_sets<int64_t*, int64_t*>(rank_.data(), parent_.data());
  return first;
}

CoordinateAxis& LabelTracer::StoredAxis(ValueId value, int64_t axis, MemberRole role, bool is_root,
                                        const std::string& layer, int64_t blocks, int64_t count) {
  ESPALIER_CHECK(IsStored(value), "value ", value, " is not a stored tensor");
  const std::string& name =
      network_.store.Canonical(network_.graph.values[static_cast<size_t>(value)].target);
  const auto [entry, fresh] = stored_axes_.try_emplace({name, axis}, axes_.size());
  if (fresh) {
    const int64_t size = count >= 0 ? count : sizes(value)[static_cast<size_t>(axis)];
    axes_.push_back({name, axis, blocks, role, Mint(size), size, 1, is_root, layer});
  }
  CoordinateAxis& known = axes_[entry->second];
  if (!fresh && known.blocks != blocks) {  // one tensor used with and without convolution groups
    for (int64_t i = 0; i < known.count; ++i)
      Pin(known.first + i, Str("'", name, "' is used in several block structures"));
  }
  known.is_root = known.is_root || is_root;
  return known;
}

const CoordinateAxis& LabelTracer::PaddingAxis(int64_t count, const std::string& layer) {
  axes_.push_back({{}, 0, 1, MemberRole::kChannel, Mint(count), count, 1, false, layer});
  return axes_.back();
}

void LabelTracer::Union(int64_t a, int64_t b) {
  if (a > 0 && b > 0 && a != b) sets_.union_set(a, b);
}

void LabelTracer::Pin(int64_t id, const std::string& reason) {
  if (id <= 0) return;
  const auto [entry, fresh] =
      reason_ids_.try_emplace(reason, static_cast<int32_t>(reasons_.size()));
  if (fresh) reasons_.push_back(reason);
  pins_.push_back({id, entry->second});
}

void LabelTracer::PinAll(const Labels& labels, const std::string& reason) {
  if (!labels.defined()) return;
  const Tensor flat = labels.ids.reshape({-1}).contiguous();
  const int64_t* ids = flat.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < flat.numel(); ++i) Pin(ids[i], reason);
}

void LabelTracer::AddRead(int32_t op, const std::string& argument, int64_t axis,
                          std::vector<int64_t> ids) {
  const int arg = network_.graph.ops[static_cast<size_t>(op)].ArgIndex(argument);
  reads_.push_back({op, arg, 0, axis, std::move(ids)});
}

std::vector<int64_t> LabelTracer::AxisIds(ValueId value, int64_t axis, const std::string& where) {
  const int64_t count = sizes(value)[static_cast<size_t>(axis)];
  const Labels& all = labels(value);
  if (!all.defined()) return std::vector<int64_t>(static_cast<size_t>(count), -1);
  Tensor rows = all.ids.movedim(axis, 0);
  rows = rows.reshape({rows.size(0), -1}).contiguous();  // [1 or count, rest]
  const int64_t* data = rows.const_data_ptr<int64_t>();
  const int64_t rest = rows.size(1);
  std::vector<int64_t> ids(static_cast<size_t>(count), 0);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t* row = data + (rows.size(0) == 1 ? 0 : i) * rest;
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
  if (rows.size(0) == 1 && count > 1 && ids[0] > 0) {
    // One label for a whole axis that is contracted: the unit is not a slice of this axis.
    Pin(ids[0], Str(where, ": read along an axis it does not run along"));
    std::fill(ids.begin(), ids.end(), -1);
  }
  return ids;
}

Tensor LabelTracer::Along(int64_t rank, int64_t axis, const std::vector<int64_t>& ids) {
  std::vector<int64_t> shape(static_cast<size_t>(rank), 1);
  shape[static_cast<size_t>(axis)] = static_cast<int64_t>(ids.size());
  return at::tensor(ids, at::kLong).view(shape);
}

std::vector<int64_t> LabelTracer::Ids(const CoordinateAxis& axis) {
  std::vector<int64_t> ids(static_cast<size_t>(axis.count));
  for (int64_t i = 0; i < axis.count; ++i) ids[static_cast<size_t>(i)] = axis.first + i;
  return ids;
}

const CoordinateAxis& LabelTracer::AxisOf(int64_t id) const {
  const auto after = std::upper_bound(
      axes_.begin(), axes_.end(), id,
      [](int64_t wanted, const CoordinateAxis& axis) { return wanted < axis.first; });
  ESPALIER_CHECK(after != axes_.begin(), "no axis holds coordinate ", id);
  return *(after - 1);
}

const CoordinateAxis* LabelTracer::FindAxis(const std::string& parameter, int64_t axis) const {
  const auto found = stored_axes_.find({parameter, axis});
  return found == stored_axes_.end() ? nullptr : &axes_[found->second];
}

}  // namespace espalier

#include "criteria/regularisers/unit_weights.h"

#include <ATen/ATen.h>

#include <map>

#include "env/base/error.h"

namespace espalier {
namespace {

bool Blocked(const Member& member) { return member.blocks > 1 && member.axis != 0; }

/// Sums of a member's parameter along its axis: [coordinates], or [blocks * coordinates].
Tensor AlongAxis(const Tensor& values, const Member& member) {
  const Tensor seen =
      Blocked(member) ? values.unflatten(0, at::IntArrayRef{member.blocks, -1}) : values;
  std::vector<int64_t> others;
  for (int64_t axis = 0; axis < seen.dim(); ++axis)
    if (Blocked(member) ? axis != 0 && axis != member.axis + 1 : axis != member.axis)
      others.push_back(axis);
  return (others.empty() ? seen : seen.sum(others)).flatten();
}

}  // namespace

UnitWeights::UnitWeights(const Space& space, const ParameterStore& store, const Counts& counts)
    : units_(space.total_units()), groups_(static_cast<int64_t>(space.groups().size())) {
  std::map<std::string, size_t> known;
  std::vector<int64_t> unit, group;
  const auto views = ViewGroups(space, store);
  for (size_t g = 0; g < views.size(); ++g) {
    group.insert(group.end(), static_cast<size_t>(views[g].units), static_cast<int64_t>(g));
    for (const GroupView::Slice& slice : views[g].slices) {
      if (!counts(slice)) continue;
      const auto [found, fresh] = known.try_emplace(slice.parameter, parameters_.size());
      if (fresh) parameters_.push_back(store.Get(slice.parameter));  // not detached
      const Member& member = slice.layout.member();
      const Tensor& weight = parameters_[found->second];
      ESPALIER_CHECK(member.axis < weight.dim(), slice.parameter, ": ", weight.sizes());
      const int64_t size = weight.size(member.axis) * (Blocked(member) ? member.blocks : 1);
      const Tensor coordinates = at::tensor(member.indices, at::kLong);
      places_.push_back({found->second, member, {}});
      if (!coordinates.equal(at::arange(size)))
        places_.back().coordinates = coordinates.to(weight.device());
      const int64_t first = space.unit_offset(g) + member.first_unit;
      for (size_t i = 0; i < member.indices.size(); ++i)
        unit.push_back(first + static_cast<int64_t>(i) / member.per_unit);
    }
  }
  if (places_.empty())
    throw Error(ErrorKind::kModel,
                Str("'", space.network().name, "' has no weight that the regulariser acts on"),
                "network_slimming needs normalisations; group_sparsity takes every weight");
  unit_ = at::tensor(unit, at::kLong).to(parameters_.front().device());
  group_ = at::tensor(group, at::kLong).to(parameters_.front().device());
}

at::TensorOptions UnitWeights::options() const { return parameters_.front().options(); }

Tensor UnitWeights::Sum(const std::function<Tensor(const Tensor&)>& function) const {
  std::vector<Tensor> values, sums;
  for (const Tensor& parameter : parameters_) values.push_back(function(parameter));
  for (const Place& place : places_) {
    const Tensor sum = AlongAxis(values[place.parameter], place.member);
    sums.push_back(place.coordinates.defined() ? sum.index_select(0, place.coordinates) : sum);
  }
  const Tensor all = at::cat(sums);
  return at::zeros({units_}, all.options()).index_add(0, unit_, all);
}

Tensor UnitWeights::Extreme(const Tensor& values, c10::string_view which) const {
  return at::zeros({groups_}, values.options())
      .scatter_reduce(0, group_, values, which, /*include_self=*/false)
      .index_select(0, group_);
}

Tensor UnitWeights::LargestOfGroup(const Tensor& values) const { return Extreme(values, "amax"); }

Tensor UnitWeights::Shortfall(const Tensor& values) const {
  const Tensor largest = Extreme(values, "amax");
  const Tensor range = largest - Extreme(values, "amin");
  return at::where(range.gt(0), (largest - values) / range, at::zeros_like(range));
}

}  // namespace espalier

#include "controllers/bottleneck.h"

#include <map>

#include "controllers/gates.h"
#include "env/base/error.h"

namespace espalier {

Bottleneck::Bottleneck(const Space& space, double initial, at::Device device, at::ScalarType dtype)
    : groups_(static_cast<int64_t>(space.groups().size())) {
  const int64_t units = space.total_units();
  std::map<std::pair<std::vector<int32_t>, std::vector<int64_t>>, int64_t> known;  // -> slice
  std::vector<int64_t> gather;
  std::vector<uint8_t> used(static_cast<size_t>(units), 0);
  for (const ReadPoint& read : space.reads()) {
    const auto [found, is_new] =
        known.emplace(std::pair(read.unit, read.shape), static_cast<int64_t>(known.size()));
    if (is_new) {
      slice_sizes_.push_back(static_cast<int64_t>(read.unit.size()));
      slice_shapes_.push_back(read.shape);
      for (const int32_t unit : read.unit) gather.push_back(unit < 0 ? units : unit);
    }
    for (const int32_t unit : read.unit) {
      if (unit >= 0) used[static_cast<size_t>(unit)] = 1;
    }
    const Gate place{.op = read.op,
                     .arg = read.arg,
                     .element = read.element,
                     .axis = read.axis,
                     .multiplier = {}};
    reads_.push_back({place, found->second});
  }

  std::vector<int64_t> parents;  // units = none
  bool nested = false;
  for (int64_t unit = 0; unit < units; ++unit) {
    const int32_t parent = space.parent_of_unit(unit);
    parents.push_back(parent < 0 ? units : parent);
    if (parent < 0 || !used[static_cast<size_t>(unit)]) continue;
    used[static_cast<size_t>(parent)] = 1;  // a head is read with its dims
    nested = true;
  }
  if (nested) parents_ = at::tensor(parents, at::kLong).to(device);

  std::vector<int64_t> group_of_unit;
  std::vector<bool> group_used;
  for (size_t group = 0; group < space.groups().size(); ++group) {
    const int64_t first = space.unit_offset(group), count = space.groups()[group].units;
    group_of_unit.insert(group_of_unit.end(), static_cast<size_t>(count),
                         static_cast<int64_t>(group));
    bool any = false;
    for (int64_t unit = first; unit < first + count; ++unit) any |= used[static_cast<size_t>(unit)];
    group_used.push_back(any);
    used_groups_ += any ? 1 : 0;
  }
  std::vector<double> weight;
  for (int64_t unit = 0; unit < units; ++unit) {
    const auto group = static_cast<size_t>(group_of_unit[static_cast<size_t>(unit)]);
    const auto share = static_cast<double>(used_groups_ * space.groups()[group].units);
    weight.push_back(group_used[group] ? 1.0 / share : 0.0);
  }

  alpha_ = at::full({units}, LogitOf(initial), at::TensorOptions(device).dtype(dtype));
  alpha_.set_requires_grad(true);
  used_ = at::tensor(used, at::kByte).to(at::kBool).to(device);
  group_of_unit_ = at::tensor(group_of_unit, at::kLong);
  binary_weight_ = at::tensor(weight, at::kDouble);
  gather_ = at::tensor(gather, at::kLong).to(device);
}

Tensor Bottleneck::Lambda() const {
  return at::where(used_, at::sigmoid(alpha_), at::ones({}, alpha_.options()));
}

std::vector<Gate> Bottleneck::Gates(const Tensor& lambda) const {
  if (reads_.empty()) return {};
  const Tensor open = at::ones({1}, lambda.options());  // units that cannot be pruned
  const Tensor own = at::cat({lambda, open});
  const Tensor effective =
      parents_.defined() ? at::cat({lambda * own.index_select(0, parents_), open}) : own;
  const Tensor all = effective.index_select(0, gather_);
  const std::vector<Tensor> slices = all.split_with_sizes(slice_sizes_);
  std::vector<Gate> gates;
  for (const Read& read : reads_) {
    gates.push_back(read.place);
    const auto& shape = slice_shapes_[static_cast<size_t>(read.slice)];
    const Tensor& slice = slices[static_cast<size_t>(read.slice)];
    gates.back().multiplier = shape.empty() ? slice : slice.view(shape);
  }
  return gates;
}

Tensor Bottleneck::SoftCounts(const Tensor& lambda) const {
  return at::zeros({groups_}, at::kDouble)
      .index_add(0, group_of_unit_, lambda.to(at::kCPU, at::kDouble));
}

Tensor Bottleneck::BinaryLoss(const Tensor& lambda) const {
  return (DistanceToBinary(lambda.to(at::kCPU, at::kDouble)) * binary_weight_).sum();
}

Tensor BudgetLoss(const CostModel& cost, Convention convention, std::span<const Bound> bounds,
                  const Tensor& kept) {
  ESPALIER_CHECK(!bounds.empty(), "a budget without a bound has no loss");
  Tensor tightest;  // F of the bound most exceeded
  const Bound* target = nullptr;
  double worst = 0;
  for (const Bound& bound : bounds) {
    const Tensor reached = cost.Evaluate(bound.kind, convention, kept);  // F
    const double exceeded = reached.item<double>() / bound.limit;
    if (target != nullptr && exceeded <= worst) continue;
    tightest = reached;
    target = &bound;
    worst = exceeded;
  }
  if (worst <= 1) return 1.0 - tightest / target->limit;               // 1 - F / T
  return (tightest - target->limit) / (target->full - target->limit);  // (F - T) / (M - T)
}

}  // namespace espalier

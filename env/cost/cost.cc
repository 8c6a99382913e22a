#include "env/cost/cost.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <map>
#include <set>

#include "env/base/error.h"
#include "env/cost/axis_counts.h"

namespace espalier {
namespace {

const std::vector<std::pair<std::string, Convention>> kConventions = {
    {"canonical", Convention::kCanonical},
    {"thop", Convention::kThop},
    {"autobot", Convention::kAutobot}};

}  // namespace

const char* CostName(CostKind kind) {
  switch (kind) {
    case CostKind::kMacs:
      return "macs";
    case CostKind::kParams:
      return "params";
    case CostKind::kActivationBytes:
      return "activation_bytes";
    case CostKind::kLatency:
      return "latency_ms";
  }
  return "?";
}

const char* ConventionName(Convention convention) {
  for (const auto& [name, value] : kConventions)
    if (value == convention) return name.c_str();
  return "?";
}

Convention ParseConvention(const std::string& name) {
  std::vector<std::string> names;
  for (const auto& [known, value] : kConventions) {
    if (known == name) return value;
    names.push_back(known);
  }
  throw Error(ErrorKind::kConfig, Str("unknown MAC convention '", name, "'"),
              SuggestName(name, names));
}

int32_t CostModel::AxisId(const AxisCount& axis) {
  for (size_t i = 0; i < axes_.size(); ++i)
    if (axes_[i] == axis) return static_cast<int32_t>(i);
  axes_.push_back(axis);
  return static_cast<int32_t>(axes_.size() - 1);
}

CostModel::CostModel(const Space& space) {
  for (const Group& group : space.groups()) {
    units_.push_back(group.units);
    blocks_.push_back(group.blocks);
    least_.push_back(group.least);
    names_.push_back(group.name);
  }
  const Network& network = space.network();
  for (size_t i = 0; i < network.graph.ops.size(); ++i) {
    op_names_.push_back({network.graph.ops[i].name, network.graph.ops[i].module_path});
    AddOp(space, static_cast<int32_t>(i));
  }
  // What a branch alone computes and stores is there when the branch is.
  std::map<std::string, std::vector<int32_t>> branches_of;  // stored name -> axes
  std::vector<std::vector<int32_t>> branches_at(network.graph.ops.size());
  for (const Branch& branch : space.branches()) {
    const int32_t axis = AxisId({0, {{branch.group}}});
    for (const int32_t op : branch.ops) branches_at[static_cast<size_t>(op)].push_back(axis);
    for (const std::string& name : branch.stored) branches_of[name].push_back(axis);
  }
  for (auto* list : {&canonical_, &thop_, &autobot_, &activations_})
    for (Term& term : *list) {
      const auto& axes = branches_at[static_cast<size_t>(term.op)];
      term.axes.insert(term.axes.end(), axes.begin(), axes.end());
    }
  std::set<std::string> counted;
  for (size_t id = 0; id < network.graph.values.size(); ++id) {
    const Value& value = network.graph.values[id];
    if (value.kind != ValueKind::kParameter ||
        !counted.insert(network.store.Canonical(value.target)).second)
      continue;
    const ValueShape& shape = space.values()[id];
    Term term = ElementsOf(shape, 1, -1);
    if (const auto found = branches_of.find(network.store.Canonical(value.target));
        found != branches_of.end())
      term.axes.insert(term.axes.end(), found->second.begin(), found->second.end());
    params_.push_back(std::move(term));
  }
}

CostModel::Term CostModel::ElementsOf(const ValueShape& shape, double times, int32_t op) {
  Term term{times, {}, op};
  for (size_t axis = 0; axis < shape.sizes.size(); ++axis) {
    if (shape.axes[axis].terms.empty()) {
      term.coefficient *= static_cast<double>(shape.sizes[axis]);
      continue;
    }
    term.coefficient /= static_cast<double>(shape.blocks[axis]);
    term.axes.push_back(AxisId(shape.axes[axis]));
  }
  return term;
}

const std::vector<CostModel::Term>& CostModel::Terms(CostKind kind, Convention convention) const {
  if (kind == CostKind::kParams) return params_;
  if (kind == CostKind::kActivationBytes) return activations_;
  if (convention == Convention::kCanonical) return canonical_;
  return convention == Convention::kThop ? thop_ : autobot_;
}

void CostModel::UseLatency(std::shared_ptr<const LatencyModel> latency) {
  ESPALIER_CHECK(latency && latency->units() == units_, "latency of another space");
  latency_ = std::move(latency);
}

double CostModel::Evaluate(CostKind kind, Convention convention,
                           std::span<const double> kept) const {
  ESPALIER_CHECK(kept.size() == units_.size(), kept.size(), " counts for ", units_.size(),
                 " groups");
  if (kind == CostKind::kLatency) {
    ESPALIER_CHECK(latency_, "latency was not measured");
    return latency_->Ms(kept);
  }
  return Sum(Terms(kind, convention), CountsOf(axes_, units_, kept));
}

double CostModel::Sum(const std::vector<Term>& terms, const std::vector<double>& counts) const {
  double total = 0;
  for (const Term& term : terms) {
    double product = term.coefficient;
    for (const int32_t axis : term.axes) product *= counts[static_cast<size_t>(axis)];
    total += product;
  }
  return total;
}

Cost CostModel::Of(const Space& space, const Selection& selection, Convention convention) const {
  const std::vector<int64_t> whole = KeptCounts(selection);
  const std::vector<double> kept(whole.begin(), whole.end());
  const std::vector<uint8_t> mask = EffectiveMask(space, UnitMask(space, selection));
  std::vector<double> counts = CountsOf(axes_, units_, kept);
  for (size_t axis = 0; axis < axes_.size(); ++axis)
    if (const auto& units = axes_[axis].units; !units.empty())
      counts[axis] = static_cast<double>(std::ranges::count_if(
          units, [&](int32_t unit) { return unit < 0 || mask[static_cast<size_t>(unit)]; }));
  const auto sum = [&](CostKind kind) { return Sum(Terms(kind, convention), counts); };
  return {sum(CostKind::kMacs), sum(CostKind::kParams), sum(CostKind::kActivationBytes),
          latency_ ? Evaluate(CostKind::kLatency, convention, kept) : 0};
}

Cost CostModel::Evaluate(std::span<const double> kept, Convention convention) const {
  return {Evaluate(CostKind::kMacs, convention, kept),
          Evaluate(CostKind::kParams, convention, kept),
          Evaluate(CostKind::kActivationBytes, convention, kept),
          latency_ ? Evaluate(CostKind::kLatency, convention, kept) : 0};
}

Cost CostModel::Full(Convention convention) const {
  const std::vector<double> all(units_.begin(), units_.end());
  return Evaluate(all, convention);
}

std::vector<double> CostModel::Gradient(CostKind kind, Convention convention,
                                        std::span<const double> kept) const {
  if (kind == CostKind::kLatency) {
    ESPALIER_CHECK(latency_, "latency was not measured");
    return latency_->Slope(kept);
  }
  const std::vector<double> counts = CountsOf(axes_, units_, kept);
  std::vector<double> by_axis(axes_.size(), 0);
  for (const Term& term : Terms(kind, convention))
    for (size_t i = 0; i < term.axes.size(); ++i) {
      double product = term.coefficient;
      for (size_t j = 0; j < term.axes.size(); ++j)
        if (j != i) product *= counts[static_cast<size_t>(term.axes[j])];
      by_axis[static_cast<size_t>(term.axes[i])] += product;
    }
  std::vector<double> gradient(units_.size(), 0);
  for (size_t axis = 0; axis < axes_.size(); ++axis)
    for (const AxisTerm& term : axes_[axis].terms) {
      const double slope =
          by_axis[axis] * static_cast<double>(term.times) / static_cast<double>(term.per);
      if (term.parent < 0) {
        gradient[static_cast<size_t>(term.group)] += slope;
        continue;
      }
      const auto all = static_cast<double>(units_[static_cast<size_t>(term.parent)]);
      gradient[static_cast<size_t>(term.group)] +=
          slope * kept[static_cast<size_t>(term.parent)] / all;
      gradient[static_cast<size_t>(term.parent)] +=
          slope * kept[static_cast<size_t>(term.group)] / all;
    }
  return gradient;
}

Tensor CostModel::Evaluate(CostKind kind, Convention convention, const Tensor& kept) const {
  ESPALIER_CHECK(kept.dim() == 1 && kept.size(0) == static_cast<int64_t>(units_.size()),
                 "counts: ", kept.sizes(), " for ", units_.size(), " groups");
  const Tensor values = kept.detach().to(at::kCPU, at::kDouble).contiguous();
  const std::span<const double> counts(values.const_data_ptr<double>(), units_.size());
  const double value = Evaluate(kind, convention, counts);
  const std::vector<double> slope = Gradient(kind, convention, counts);
  // First-order expansion at `kept`: the value and the gradient, in one node.
  const Tensor gradient = at::tensor(slope, kept.options().dtype(at::kDouble).requires_grad(false));
  const Tensor shift = (kept.to(at::kDouble) - kept.detach().to(at::kDouble)).mul(gradient).sum();
  return shift + value;
}

std::vector<CostModel::OpCost> CostModel::PerOp(Convention convention,
                                                std::span<const double> kept) const {
  const std::vector<double> counts = CountsOf(axes_, units_, kept);
  std::map<int32_t, double> by_op;
  for (const Term& term : Terms(CostKind::kMacs, convention)) {
    double product = term.coefficient;
    for (const int32_t axis : term.axes) product *= counts[static_cast<size_t>(axis)];
    by_op[term.op] += product;
  }
  std::vector<OpCost> costs;
  for (const auto& [op, macs] : by_op) {
    const auto& [name, path] = op_names_[static_cast<size_t>(op)];
    costs.push_back({name, path, macs});
  }
  return costs;
}

}  // namespace espalier

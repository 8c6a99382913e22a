#include <algorithm>
#include <cmath>
#include <numeric>

#include "env/base/error.h"
#include "env/cost/cost.h"

namespace espalier {
namespace {

constexpr int kBisections = 60;

const char* KindName(CostKind kind) {
  switch (kind) {
    case CostKind::kMacs:
      return "macs";
    case CostKind::kParams:
      return "params";
    case CostKind::kActivationBytes:
      return "activation_bytes";
  }
  return "?";
}

std::vector<double> AsReal(const std::vector<int64_t>& counts) {
  return {counts.begin(), counts.end()};
}

}  // namespace

Schema Describe(BudgetConfig& config) {
  Schema schema;
  schema
      .Add("macs", &config.macs,
           "bound on MACs: a fraction of the uncut network (<= 1) or an amount such as \"55.84M\"")
      .Add("params", &config.params, "bound on parameters, fraction or amount")
      .Add("activation_bytes", &config.activation_bytes,
           "bound on the bytes of all activations at batch 1, fraction or amount")
      .Add("convention", &config.convention, "what is counted as a MAC",
           {"canonical", "thop", "autobot"})
      .Add("round_to", &config.round_to, "kept counts are multiples of this, or the full width",
           IntRange{1, 1024})
      .Add("min_keep", &config.min_keep, "least keep ratio per group", RealRange{0, 1})
      .Add("max_keep", &config.max_keep, "largest keep ratio per group; 1 = no bound",
           RealRange{0, 1, true, false});
  return schema;
}

Budget::Budget(const CostModel& cost, const BudgetConfig& config)
    : cost_(cost), config_(config), convention_(ParseConvention(config.convention)) {
  for (size_t g = 0; g < cost.units().size(); ++g) {
    const int64_t units = cost.units()[g], blocks = cost.blocks()[g];
    // Equal counts per block and a multiple of round_to: step is their least common multiple.
    const int64_t step = std::min(units, std::lcm(blocks, config.round_to));
    const auto rounded_up = [&](double ratio) {
      const auto wanted =
          static_cast<int64_t>(std::ceil(ratio * static_cast<double>(units) - 1e-9));
      return std::min(units, (std::max<int64_t>(wanted, 1) + step - 1) / step * step);
    };
    step_.push_back(step);
    least_.push_back(rounded_up(config.min_keep));
    most_.push_back(config.max_keep >= 1 ? units
                                         : std::max(least_.back(), rounded_up(config.max_keep)));
  }
  const std::vector<double> least = AsReal(least_), full = AsReal(cost.units());
  const auto add = [&](CostKind kind, const std::optional<Quantity>& quantity) {
    if (!quantity) return;
    Bound bound{kind, 0, cost.Evaluate(kind, convention_, full),
                cost.Evaluate(kind, convention_, least)};
    bound.limit = quantity->is_fraction ? quantity->value * bound.full : quantity->value;
    if (bound.limit < bound.least)
      throw Error(
          ErrorKind::kBudget,
          Str("budget.", KindName(kind), " = ", ToString(*quantity), " (",
              std::llround(bound.limit), ") cannot be met: the least reachable is ",
              std::llround(bound.least), ", ", bound.least / bound.full, " of the uncut network's ",
              std::llround(bound.full)),
          "raise the bound, lower budget.min_keep or budget.round_to, or exclude fewer layers");
    bounds_.push_back(bound);
  };
  add(CostKind::kMacs, config.macs);
  add(CostKind::kParams, config.params);
  add(CostKind::kActivationBytes, config.activation_bytes);
}

bool Budget::Feasible(const std::vector<int64_t>& kept) const {
  const std::vector<double> counts = AsReal(kept);
  for (const Bound& bound : bounds_)
    if (cost_.Evaluate(bound.kind, convention_, counts) > bound.limit) return false;
  return true;
}

std::vector<int64_t> Budget::Round(const Decision& decision, double scale) const {
  std::vector<int64_t> kept(decision.size());
  for (size_t g = 0; g < decision.size(); ++g) {
    const int64_t units = cost_.units()[g];
    const double wanted = std::min(1.0, decision[g] * scale) * static_cast<double>(units);
    int64_t count = std::llround(wanted / static_cast<double>(step_[g])) * step_[g];
    if (wanted >= static_cast<double>(units) - 1e-9)
      count = units;  // full width need not be a multiple
    kept[g] = std::clamp(count, least_[g], most_[g]);
  }
  return kept;
}

std::vector<int64_t> Budget::Project(const Decision& decision) const {
  ESPALIER_CHECK(decision.size() == cost_.units().size(), "decision for ", decision.size(),
                 " groups, space has ", cost_.units().size());
  for (const double ratio : decision)
    ESPALIER_CHECK(ratio > 0 && ratio <= 1, "keep ratio ", ratio, " outside (0, 1]");
  double top = 1;  // the scale at which everything is kept
  for (const double ratio : decision) top = std::max(top, 1 / ratio);
  if (bounds_.empty()) return Round(decision, 1);
  double low = 0, high = top;
  std::vector<int64_t> kept = Round(decision, low);
  if (Feasible(Round(decision, high))) return Round(decision, high);
  for (int i = 0; i < kBisections && high - low > 1e-7 * top; ++i) {
    const double middle = (low + high) / 2;
    std::vector<int64_t> tried = Round(decision, middle);
    if (Feasible(tried)) {
      low = middle;
      kept = std::move(tried);
    } else {
      high = middle;
    }
  }
  // Rounding leaves slack: while every bound holds, groups take single steps in turn, those
  // furthest below their wanted width first.
  std::vector<std::pair<double, size_t>> open;  // (-lack, group)
  for (size_t g = 0; g < decision.size(); ++g)
    open.push_back(
        {static_cast<double>(kept[g]) / static_cast<double>(cost_.units()[g]) - decision[g] * low,
         g});
  std::sort(open.begin(), open.end());
  while (!open.empty())
    std::erase_if(open, [&](const auto& entry) {
      const size_t g = entry.second;
      const int64_t before = kept[g];
      kept[g] = std::min(most_[g], before + step_[g]);
      if (kept[g] > before && Feasible(kept)) return false;
      kept[g] = before;
      return true;
    });
  return kept;
}

}  // namespace espalier

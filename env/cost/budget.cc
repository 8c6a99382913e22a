#include "env/cost/budget.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>
#include <utility>

#include "env/base/error.h"
#include "env/base/pattern.h"

namespace espalier {
namespace {

constexpr int kBisections = 60;
constexpr double kBranchStays = 0.5;  // keep ratios from here on mean that a branch stays

std::vector<double> AsReal(const std::vector<int64_t>& counts) {
  return {counts.begin(), counts.end()};
}

std::string Trimmed(const std::string& text) {
  const size_t first = text.find_first_not_of(" \t");
  return first == std::string::npos ? ""
                                    : text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

/// One entry of `keep`.
struct KeepRule {
  std::string pattern;
  double low = 0, high = 1;
};

KeepRule ParseKeep(const std::string& entry) {
  const auto fail = [&]() -> KeepRule {
    throw Error(ErrorKind::kConfig, Str("budget.keep: '", entry, "' is no range of keep ratios"),
                "\"PATTERN: LOW..HIGH\" with 0 <= LOW <= HIGH <= 1 and HIGH > 0, such as "
                "\"layer3.*: 0.25..0.9\"; either end may be left out");
  };
  const size_t colon = entry.rfind(':'), dots = entry.find("..", colon);
  if (colon == std::string::npos || dots == std::string::npos) return fail();
  KeepRule rule{.pattern = Trimmed(entry.substr(0, colon))};
  const auto read = [&](const std::string& text, double& ratio) {
    if (text.empty()) return true;
    const char* const end = text.data() + text.size();
    const auto [rest, problem] = std::from_chars(text.data(), end, ratio);
    return problem == std::errc() && rest == end && ratio >= 0 && ratio <= 1;
  };
  if (!read(Trimmed(entry.substr(colon + 1, dots - colon - 1)), rule.low) ||
      !read(Trimmed(entry.substr(dots + 2)), rule.high) || rule.low > rule.high || rule.high == 0 ||
      rule.pattern.empty())
    return fail();
  return rule;
}

/// An amount of a cost as a person writes it.
std::string AmountText(CostKind kind, double amount) {
  if (kind != CostKind::kLatency) return Str(std::llround(amount));
  return Str(std::round(amount * 1e4) / 1e4, " ms");
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
      .Add("latency_ms", &config.latency_ms,
           "bound on the time of a forward as [latency] measures it, fraction or milliseconds "
           "(\"0.8ms\")")
      .Add("convention", &config.convention, "what is counted as a MAC",
           {"canonical", "thop", "autobot"})
      .Add("round_to", &config.round_to, "kept counts are multiples of this, or the full width",
           IntRange{1, 1024})
      .Add("min_keep", &config.min_keep, "least keep ratio per group", RealRange{0, 1})
      .Add("max_keep", &config.max_keep, "largest keep ratio per group; 1 = no bound",
           RealRange{0, 1, true, false})
      .Add("keep", &config.keep,
           "\"PATTERN: LOW..HIGH\" keep ratios of the groups whose name matches, in place of "
           "min_keep and max_keep; the last match counts");
  return schema;
}

WidthLimits LimitsOf(const CostModel& cost, const BudgetConfig& config) {
  std::vector<KeepRule> rules;
  for (const std::string& entry : config.keep) {
    rules.push_back(ParseKeep(entry));
    const auto& names = cost.group_names();
    if (std::none_of(names.begin(), names.end(), [&](const std::string& name) {
          return MatchesPattern(name, rules.back().pattern);
        }))
      throw Error(ErrorKind::kConfig,
                  Str("budget.keep: '", rules.back().pattern, "' matches no group"),
                  SuggestName(rules.back().pattern, names));
  }
  WidthLimits limits;
  for (size_t g = 0; g < cost.units().size(); ++g) {
    double low = config.min_keep, high = config.max_keep;
    for (const KeepRule& rule : rules)
      if (MatchesPattern(cost.group_names()[g], rule.pattern)) low = rule.low, high = rule.high;
    const int64_t units = cost.units()[g], blocks = cost.blocks()[g];
    const int64_t fewest = cost.least()[g];
    // Equal counts per block and a multiple of round_to: step is their least common multiple.
    const int64_t step = std::min(units, std::lcm(blocks, config.round_to));
    const auto rounded_up = [&](double ratio) {
      const auto wanted =
          static_cast<int64_t>(std::ceil(ratio * static_cast<double>(units) - 1e-9));
      return std::min(units, (std::max({wanted, fewest, int64_t{1}}) + step - 1) / step * step);
    };
    limits.step.push_back(step);
    limits.least.push_back(cost.least()[g] == 0 ? 0 : rounded_up(low));
    limits.most.push_back(high >= 1 ? units : std::max(limits.least.back(), rounded_up(high)));
  }
  return limits;
}

const std::optional<Quantity>& BudgetConfig::bound(CostKind kind) const {
  switch (kind) {
    case CostKind::kMacs:
      return macs;
    case CostKind::kParams:
      return params;
    case CostKind::kActivationBytes:
      return activation_bytes;
    case CostKind::kLatency:
      return latency_ms;
  }
  ESPALIER_CHECK(false, "unknown cost");
}

std::optional<Quantity>& BudgetConfig::bound(CostKind kind) {
  return const_cast<std::optional<Quantity>&>(std::as_const(*this).bound(kind));
}

std::vector<Reach> ReachOf(const CostModel& cost, const BudgetConfig& config) {
  const WidthLimits limits = LimitsOf(cost, config);
  const std::vector<double> least = AsReal(limits.least), most = AsReal(limits.most),
                            full = AsReal(cost.units());
  const Convention convention = ParseConvention(config.convention);
  std::vector<Reach> reach;
  const auto add = [&](CostKind kind, const std::optional<Quantity>& asked) {
    if (!cost.Counts(kind)) {
      if (asked)
        throw Error(ErrorKind::kConfig,
                    "budget.latency_ms: the latency of this network was not measured",
                    "espalier run, prune and inspect measure it");
      return;
    }
    Reach row{kind, cost.Evaluate(kind, convention, least), cost.Evaluate(kind, convention, most),
              cost.Evaluate(kind, convention, full), asked};
    if (asked) row.limit = asked->is_fraction ? asked->value * row.full : asked->value;
    reach.push_back(row);
  };
  for (const CostKind kind : kCostKinds) add(kind, config.bound(kind));
  return reach;
}

Budget::Budget(const CostModel& cost, const BudgetConfig& config)
    : cost_(cost),
      config_(config),
      convention_(ParseConvention(config.convention)),
      limits_(LimitsOf(cost, config)) {
  std::string problems;
  for (const Reach& row : ReachOf(cost, config)) {
    if (!row.asked) continue;
    if (!row.met())
      problems +=
          Str(problems.empty() ? "" : "\n", "budget.", CostName(row.kind), " = ",
              ToString(*row.asked), " (", AmountText(row.kind, row.limit),
              ") cannot be met: the least reachable is ", AmountText(row.kind, row.least), ", ",
              row.least / row.full, " of the uncut network's ", AmountText(row.kind, row.full));
    bounds_.push_back({row.kind, row.limit, row.full, row.least});
  }
  if (!problems.empty())
    throw Error(ErrorKind::kBudget, problems,
                "raise the bound, lower budget.min_keep, budget.keep or budget.round_to, or "
                "exclude fewer layers");
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
    if (cost_.least()[g] == 0) {  // a branch is there or not: it does not shrink with the others
      kept[g] = decision[g] >= kBranchStays;
      continue;
    }
    const double wanted = std::min(1.0, decision[g] * scale) * static_cast<double>(units);
    int64_t count = std::llround(wanted / static_cast<double>(limits_.step[g])) * limits_.step[g];
    if (wanted >= static_cast<double>(units) - 1e-9)
      count = units;  // full width need not be a multiple
    kept[g] = std::clamp(count, limits_.least[g], limits_.most[g]);
  }
  return kept;
}

/// Gives a group more units if every bound still holds then.
bool Budget::Widen(std::vector<int64_t>& kept, size_t group) const {
  const int64_t before = kept[group], step = limits_.step[group], most = limits_.most[group];
  std::vector<int64_t> counts = {before + step};
  const bool stairs = std::any_of(bounds_.begin(), bounds_.end(), [](const Bound& bound) {
    return bound.kind == CostKind::kLatency;
  });
  if (stairs)
    for (const int64_t stair : {8, 16}) {
      const int64_t leap = std::lcm(step, stair);
      counts.push_back((before / leap + 1) * leap);
    }
  for (const int64_t count : counts) {
    kept[group] = std::min(most, count);
    if (kept[group] > before && Feasible(kept)) return true;
  }
  kept[group] = before;
  return false;
}

/// Branches go, those with the least ratio first, until the rest can meet the bounds.
Decision Budget::WithReachableDepth(Decision decision) const {
  while (!Feasible(Round(decision, 0))) {
    size_t least = decision.size();
    for (size_t g = 0; g < decision.size(); ++g)
      if (cost_.least()[g] == 0 && decision[g] >= kBranchStays &&
          (least == decision.size() || decision[g] <= decision[least]))
        least = g;
    if (least == decision.size()) break;
    decision[least] = kBranchStays / 2;
  }
  return decision;
}

std::vector<int64_t> Budget::Project(const Decision& given) const {
  ESPALIER_CHECK(given.size() == cost_.units().size(), "decision for ", given.size(),
                 " groups, space has ", cost_.units().size());
  for (const double ratio : given)
    ESPALIER_CHECK(ratio > 0 && ratio <= 1, "keep ratio ", ratio, " outside (0, 1]");
  const Decision decision = WithReachableDepth(given);
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
    if (cost_.least()[g] > 0)
      open.push_back(
          {static_cast<double>(kept[g]) / static_cast<double>(cost_.units()[g]) - decision[g] * low,
           g});
  std::sort(open.begin(), open.end());
  while (!open.empty())
    std::erase_if(open, [&](const auto& entry) { return !Widen(kept, entry.second); });
  return kept;
}

}  // namespace espalier

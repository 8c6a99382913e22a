#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "env/base/config.h"
#include "env/cost/cost.h"
#include "env/space/plan.h"

namespace espalier {

struct BudgetConfig {
  std::optional<Quantity> macs, params, activation_bytes;
  std::optional<Quantity> latency_ms;  ///< fraction, or milliseconds: 3.5, "0.8ms"
  std::string convention = "canonical";
  int64_t round_to = 1;   ///< kept counts are multiples of this (or the full width)
  double min_keep = 0.0;  ///< least keep ratio per group; at least one unit (one round_to) stays
  double max_keep = 1.0;  ///< largest keep ratio per group; 1 = no bound
  /// "PATTERN: LOW..HIGH": instead of min_keep and max_keep for the groups whose name matches
  /// (`*` any text); either end may be left out; the last pattern that matches counts.
  std::vector<std::string> keep;

  std::optional<Quantity>& bound(CostKind kind);
  const std::optional<Quantity>& bound(CostKind kind) const;
};
Schema Describe(BudgetConfig& config);

/// One bound in absolute numbers.
struct Bound {
  CostKind kind;
  double limit;
  double full;
  double least;  ///< with every group at the fewest units it may keep
};

/// What one cost can be, and what is asked of it.
struct Reach {
  CostKind kind;
  double least, most, full;  ///< groups at their fewest, at their largest, uncut
  std::optional<Quantity> asked{};
  double limit = std::numeric_limits<double>::infinity();  ///< of what is asked
  bool met() const { return least <= limit; }
};

/// How many units each group may keep. [groups] each
struct WidthLimits {
  std::vector<int64_t> step;         ///< counts are multiples of this, or the full width
  std::vector<int64_t> least, most;  ///< inclusive
};
/// Errors: kConfig for a `keep` entry that is none, or whose pattern matches no group.
WidthLimits LimitsOf(const CostModel& cost, const BudgetConfig& config);

/// For every cost the model counts: MACs, parameters, activation bytes, latency where measured.
/// Errors: kConfig as LimitsOf, and when latency is bounded and was not measured.
std::vector<Reach> ReachOf(const CostModel& cost, const BudgetConfig& config);

/// Nearest feasible Decision: projection under several bounds at once.
class Budget {
 public:
  /// Errors: kBudget when a bound is below the least reachable value (says which, and the least);
  /// kConfig as ReachOf.
  Budget(const CostModel& cost, const BudgetConfig& config);

  const std::vector<Bound>& bounds() const { return bounds_; }
  Convention convention() const { return convention_; }
  const BudgetConfig& config() const { return config_; }
  const WidthLimits& limits() const { return limits_; }
  bool Feasible(const std::vector<int64_t>& kept) const;
  /// Scales all ratios by one factor (bisection), rounds, then repairs greedily by single steps so
  /// that every bound holds and the tightest is missed by as little as possible. Under a latency
  /// bound groups may also leap to the next multiples of 8 and 16, where its stairs end.
  /// Branches (groups that may keep nothing) stay from a ratio of 0.5 on and are not scaled; they
  /// go only where the bounds cannot be met otherwise, those with the least ratio first.
  /// decision: [groups] in (0, 1] -> kept counts. Under 100 us for 100 groups without latency.
  std::vector<int64_t> Project(const Decision& decision) const;
  /// Nearest counts that the width limits allow, whatever they cost.
  std::vector<int64_t> Nearest(const Decision& decision) const { return Round(decision, 1); }

 private:
  std::vector<int64_t> Round(const Decision& decision, double scale) const;
  Decision WithReachableDepth(Decision decision) const;
  bool Widen(std::vector<int64_t>& kept, size_t group) const;
  const CostModel& cost_;
  const BudgetConfig config_;
  Convention convention_;
  std::vector<Bound> bounds_;
  WidthLimits limits_;
};

}  // namespace espalier

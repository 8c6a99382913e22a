#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "env/base/config.h"
#include "env/base/tensor.h"
#include "env/space/plan.h"
#include "env/space/space.h"

namespace espalier {

/// What is counted as a MAC.
enum class Convention {
  kCanonical,  ///< convolutions, linears and matrix products only; no bias
  kThop,       ///< plus 2 per batch-norm element, pooling and conv bias: the `thop` counter
  kAutobot,  ///< thop as AutoBot's loss counts it: conv bias and 1-d batch-norm stay at full width
};
const char* ConventionName(Convention convention);
Convention ParseConvention(const std::string& name);  ///< kConfig with choices

enum class CostKind { kMacs, kParams, kActivationBytes };

struct Cost {
  double macs = 0;
  double params = 0;
  double activation_bytes = 0;  ///< sum over op outputs, float32, batch 1
};

/// Exact polynomials in the kept counts of the Groups: exact for integers, differentiable for soft
/// counts. Built once from a Space; evaluating costs microseconds.
///
/// Units    MACs (not FLOPs), parameters, bytes; batch 1.
class CostModel {
 public:
  explicit CostModel(const Space& space);

  /// kept: [groups], real-valued counts allowed.
  double Evaluate(CostKind kind, Convention convention, std::span<const double> kept) const;
  Cost Evaluate(std::span<const double> kept, Convention convention = Convention::kCanonical) const;
  Cost Full(Convention convention = Convention::kCanonical) const;
  /// d cost / d kept, [groups].
  std::vector<double> Gradient(CostKind kind, Convention convention,
                               std::span<const double> kept) const;
  /// The same as one differentiable scalar: kept [groups] float64 -> [] float64.
  Tensor Evaluate(CostKind kind, Convention convention, const Tensor& kept) const;

  struct OpCost {
    std::string op, module_path;
    double macs;
  };
  std::vector<OpCost> PerOp(Convention convention, std::span<const double> kept) const;
  /// Ops with labelled or large outputs that no convention counts, listed, never silently zero.
  const std::vector<std::string>& uncounted() const { return uncounted_; }
  const std::vector<int64_t>& units() const { return units_; }  ///< [groups]
  const std::vector<int64_t>& blocks() const { return blocks_; }
  const std::vector<std::string>& group_names() const { return names_; }

  /// coefficient * product of axis counts; `axes` index into the table of distinct AxisCounts.
  struct Term {
    double coefficient;
    std::vector<int32_t> axes;
    int32_t op;  ///< -1 for parameters
  };

 private:
  const std::vector<Term>& Terms(CostKind kind, Convention convention) const;
  int32_t AxisId(const AxisCount& axis);
  void AddOp(const Space& space, int32_t op);

  std::vector<AxisCount> axes_;
  std::vector<Term> canonical_, thop_, autobot_, params_, activations_;
  std::vector<int64_t> units_, blocks_;
  std::vector<std::string> names_;
  std::vector<std::string> uncounted_;
  std::vector<std::pair<std::string, std::string>> op_names_;
};

struct BudgetConfig {
  std::optional<Quantity> macs, params, activation_bytes;
  std::string convention = "canonical";
  int64_t round_to = 1;   ///< kept counts are multiples of this (or the full width)
  double min_keep = 0.0;  ///< least keep ratio per group; at least one unit (one round_to) stays
  double max_keep = 1.0;  ///< largest keep ratio per group; 1 = no bound
};
Schema Describe(BudgetConfig& config);

/// One bound in absolute numbers.
struct Bound {
  CostKind kind;
  double limit;
  double full;
  double least;  ///< smallest reachable value
};

/// Nearest feasible Decision: projection under several bounds at once.
class Budget {
 public:
  /// Errors: kBudget when a bound is below the least reachable value (says which, and the least).
  Budget(const CostModel& cost, const BudgetConfig& config);

  const std::vector<Bound>& bounds() const { return bounds_; }
  Convention convention() const { return convention_; }
  const BudgetConfig& config() const { return config_; }
  bool Feasible(const std::vector<int64_t>& kept) const;
  /// Scales all ratios by one factor (bisection), rounds, then repairs greedily by single steps so
  /// that every bound holds and the tightest is missed by as little as possible.
  /// decision: [groups] in (0, 1] -> kept counts. Under 100 us for 100 groups.
  std::vector<int64_t> Project(const Decision& decision) const;
  /// Nearest counts that round_to, min_keep and max_keep allow, whatever they cost.
  std::vector<int64_t> Nearest(const Decision& decision) const { return Round(decision, 1); }

 private:
  std::vector<int64_t> Round(const Decision& decision, double scale) const;
  const CostModel& cost_;
  const BudgetConfig config_;
  Convention convention_;
  std::vector<Bound> bounds_;
  std::vector<int64_t> step_, least_, most_;  // [groups]
};

}  // namespace espalier

#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "env/base/tensor.h"
#include "env/cost/latency_model.h"
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

enum class CostKind { kMacs, kParams, kActivationBytes, kLatency };
inline constexpr std::array kCostKinds = {CostKind::kMacs, CostKind::kParams,
                                          CostKind::kActivationBytes, CostKind::kLatency};
const char* CostName(CostKind kind);  ///< "macs", "params", "activation_bytes", "latency_ms"

struct Cost {
  double macs = 0;
  double params = 0;
  double activation_bytes = 0;  ///< sum over op outputs, float32, batch 1
  double latency_ms = 0;        ///< 0 without a latency model
};

/// Exact polynomials in the kept counts of the Groups: exact for integers, differentiable for soft
/// counts. Built once from a Space; evaluating costs microseconds.
///
/// Units    MACs (not FLOPs), parameters, bytes; batch 1.
///
/// Latency is no polynomial: it comes from a measured LatencyModel, where one was given, and its
/// derivative is LatencyModel::Slope. Conventions do not matter to it.
class CostModel {
 public:
  explicit CostModel(const Space& space);

  /// kept: [groups], real-valued counts allowed.
  double Evaluate(CostKind kind, Convention convention, std::span<const double> kept) const;
  Cost Evaluate(std::span<const double> kept, Convention convention = Convention::kCanonical) const;
  Cost Full(Convention convention = Convention::kCanonical) const;
  /// Of these very units. The polynomials differ from it where an axis holds only a part of a
  /// group's units: they count the mean. Latency is that of the counts.
  Cost Of(const Space& space, const Selection& selection,
          Convention convention = Convention::kCanonical) const;
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
  /// Makes latency one of the costs.
  /// Errors: internal when it is of another space.
  void UseLatency(std::shared_ptr<const LatencyModel> latency);
  const LatencyModel* latency() const { return latency_.get(); }  ///< null = not measured
  bool Counts(CostKind kind) const { return kind != CostKind::kLatency || latency_ != nullptr; }

  const std::vector<int64_t>& units() const { return units_; }  ///< [groups]
  const std::vector<int64_t>& blocks() const { return blocks_; }
  /// Least kept counts: one unit a block, or none of a branch that can go as a whole. [groups]
  const std::vector<int64_t>& least() const { return least_; }
  const std::vector<std::string>& group_names() const { return names_; }

  /// coefficient * product of axis counts; `axes` index into the table of distinct AxisCounts.
  struct Term {
    double coefficient;
    std::vector<int32_t> axes;
    int32_t op;  ///< -1 for parameters
  };

 private:
  double Sum(const std::vector<Term>& terms, const std::vector<double>& counts) const;
  const std::vector<Term>& Terms(CostKind kind, Convention convention) const;
  int32_t AxisId(const AxisCount& axis);
  /// `times` the number of a value's elements.
  Term ElementsOf(const ValueShape& shape, double times, int32_t op);
  void AddOp(const Space& space, int32_t op);

  std::vector<AxisCount> axes_;
  std::vector<Term> canonical_, thop_, autobot_, params_, activations_;
  std::vector<int64_t> units_, blocks_, least_;
  std::vector<std::string> names_;
  std::vector<std::string> uncounted_;
  std::vector<std::pair<std::string, std::string>> op_names_;
  std::shared_ptr<const LatencyModel> latency_;
};

}  // namespace espalier

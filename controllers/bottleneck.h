#pragma once

#include <span>
#include <vector>

#include "env/base/tensor.h"
#include "env/cost/budget.h"
#include "env/graph/executor.h"
#include "env/space/space.h"

namespace espalier {

/// One trainable scalar per unit that scales what the unit's consumers read.
///
/// Source   Castells, Yeom, "Automatic Neural Network Pruning that Efficiently Preserves the Model
///          Accuracy", arXiv:2111.09635, and the authors' released code.
/// Symbols  alpha -> alpha(); lambda = sigmoid(alpha) -> Lambda(); K, C_k -> used groups, their
/// units. Deviates Multiplies at the consumers, where a removed unit is exactly a closed gate on
/// any network.
///          On CIFAR ResNets, VGG, DenseNet and GoogLeNet that is the authors' place; where
///          residual trunks are tied they multiply the trunk once per block (lambda, lambda^2,
///          ...), we multiply each branch input once.
/// Shapes   alpha, lambda: [total units of the Space], groups one after another.
/// Random   nothing: no noise is injected.
class Bottleneck {
 public:
  /// initial: lambda of every unit, in (0, 1). dtype: that of the network's values.
  Bottleneck(const Space& space, double initial, at::Device device,
             at::ScalarType dtype = at::kFloat);

  const Tensor& alpha() const { return alpha_; }  ///< leaf that requires grad
  /// Units that no op reads through a gate stay at exactly 1 and get no gradient.
  Tensor Lambda() const;
  /// One gate per read of the Space; reads of the same units share one multiplier tensor.
  std::vector<Gate> Gates(const Tensor& lambda) const;
  /// Sum of lambda per group: the soft counts CostModel takes. [groups] float64, CPU.
  Tensor SoftCounts(const Tensor& lambda) const;
  /// L_bin = 1/K sum_k 1/C_k sum_c |lambda - round(lambda)| over used groups. [] float64, CPU.
  Tensor BinaryLoss(const Tensor& lambda) const;
  int64_t used_groups() const { return used_groups_; }  ///< K

 private:
  struct Read {
    Gate place;     // without multiplier
    int64_t slice;  // index into slices_
  };
  int64_t groups_;
  int64_t used_groups_ = 0;
  Tensor alpha_;          // [units]
  Tensor used_;           // [units] bool
  Tensor group_of_unit_;  // [units] int64, CPU
  Tensor binary_weight_;  // [units] float64, CPU: 1 / (K C_k), 0 where unused
  Tensor gather_;         // [sum of slice sizes] into lambda with a 1 appended
  std::vector<int64_t> slice_sizes_;
  std::vector<std::vector<int64_t>> slice_shapes_;  // empty: along one axis
  Tensor parents_;                                  // by unit; undefined when no unit has one
  std::vector<Read> reads_;
};

/// L_F of the MACs F against target T and full M: (F - T) / (M - T) above the target, 1 - F / T
/// below; zero at F = T. With several bounds: that of the bound most exceeded, the one with the
/// largest F / T.
///
/// Source   AutoBot's released code; one bound is the authors' case.
/// Shapes   kept: [groups] float64, may require grad -> [] float64.
/// Errors   internal: no bound.
Tensor BudgetLoss(const CostModel& cost, Convention convention, std::span<const Bound> bounds,
                  const Tensor& kept);

}  // namespace espalier

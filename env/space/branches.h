#pragma once

#include <vector>

#include "env/graph/executor.h"
#include "env/graph/network.h"
#include "env/space/space.h"

namespace espalier {

/// Tells residual additions from others, and their branch from their trunk.
class BranchFinder {
 public:
  explicit BranchFinder(const Graph& graph);

  /// 0 or 1: which of two operands is the branch, the one with more weighted layers since the point
  /// where both paths part (their nearest common dominator), when nothing else reads it; -1 when
  /// this is no residual addition.
  int Branch(ValueId a, ValueId b) const;

 private:
  int32_t Producer(ValueId value) const;  ///< of a tensor; -1 = an input, stored, or a number
  size_t CommonDominator(size_t a, size_t b) const;
  int LayersSince(ValueId value, size_t fork) const;

  const Graph& graph_;
  std::vector<std::vector<int32_t>> consumers_;
  std::vector<size_t> dominator_;
};

/// Branches that can be left out. Additions with the branch as their first operand get it as their
/// second, which the literal alpha switches off. meta: of the network's values at batch 1.
std::vector<Branch> FindBranches(Network& network, const std::vector<ValueMeta>& meta);

/// By op: whether it computes for nothing but this argument. Empty when it cannot be told apart: an
/// operator in place reaches from one side to the other.
std::vector<bool> OpsOnlyFor(const Graph& graph, int32_t op, int32_t arg);

}  // namespace espalier

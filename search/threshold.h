#pragma once

#include <cstdint>
#include <vector>

#include "env/cost/budget.h"
#include "env/space/plan.h"
#include "env/space/space.h"

namespace espalier {

struct ThresholdOptions {
  double tolerance = 50000;  ///< stop when the bound is missed by no more (in its own unit;
                             ///< latency: in as large a share of the uncut network's MACs)
  int64_t evaluations = 50;  ///< at most
};

/// One threshold on all scores and what it costs.
struct ThresholdTrial {
  double threshold = 0;
  std::vector<int64_t> kept;  ///< [groups]
  double excess = 0;          ///< cost - limit of the bound most exceeded, in its own unit
  bool feasible = false;      ///< every bound holds
};

/// Bisection for one threshold t on scores in (0, 1): a unit stays when its score > t (strict); a
/// group that would be empty keeps its best unit; blocks keep equal numbers.
///
/// Source   AutoBot's released code: t = 0.5, step 0.25, t up when the cost is above the target and
///          down otherwise, step halved, until within tolerance.
/// Errors   internal on size mismatch.
struct ThresholdSearch {
  ThresholdTrial last;  ///< the threshold tested last: what the released code uses
  ThresholdTrial best;  ///< nearest to the bounds among those that hold them; else nearest of all
  int64_t evaluations = 0;  ///< until `last`
};
ThresholdSearch SearchThreshold(const Space& space, const CostModel& cost, const Budget& budget,
                                const std::vector<std::vector<double>>& scores,
                                const ThresholdOptions& options);

/// Kept units per group when units with score > threshold stay.
std::vector<int64_t> CountsAbove(const Space& space, const std::vector<std::vector<double>>& scores,
                                 double threshold);

}  // namespace espalier

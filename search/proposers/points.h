#pragma once

#include <vector>

#include "search/proposer.h"

namespace espalier {

/// Keep ratios drawn one by one, uniform between max(low, least) and high.
Decision DrawPoint(const SearchProblem& problem, double least, Rng& rng);

/// A copy with `changes` ratios multiplied by exp(sigma * normal), kept within the bounds.
/// Projection fixes the common factor: what changes is how the budget is shared out.
Decision Perturb(const SearchProblem& problem, Decision point, int64_t changes, double sigma,
                 Rng& rng);

/// 1 plus a geometric number of further changes, `mean` on average, no more than there are groups.
int64_t DrawChanges(const SearchProblem& problem, double mean, Rng& rng);

}  // namespace espalier

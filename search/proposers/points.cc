#include "search/proposers/points.h"

#include <algorithm>
#include <cmath>

namespace espalier {

Decision DrawPoint(const SearchProblem& problem, double least, Rng& rng) {
  Decision point;
  for (size_t g = 0; g < problem.groups(); ++g) {
    const double low = std::clamp(least, problem.low[g], problem.high[g]);
    point.push_back(rng.Uniform(low, problem.high[g]));
  }
  return point;
}

Decision Perturb(const SearchProblem& problem, Decision point, int64_t changes, double sigma,
                 Rng& rng) {
  const std::vector<int64_t> order = rng.Permutation(static_cast<int64_t>(point.size()));
  for (size_t i = 0; i < std::min(order.size(), static_cast<size_t>(changes)); ++i) {
    const auto g = static_cast<size_t>(order[i]);
    point[g] =
        std::clamp(point[g] * std::exp(sigma * rng.Normal()), problem.low[g], problem.high[g]);
  }
  return point;
}

int64_t DrawChanges(const SearchProblem& problem, double mean, Rng& rng) {
  int64_t changes = 1;
  const double more = 1 - 1 / std::max(mean, 1.0);
  while (changes < static_cast<int64_t>(problem.groups()) && rng.Uniform() < more) ++changes;
  return changes;
}

}  // namespace espalier

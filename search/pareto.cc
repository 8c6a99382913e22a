#include "search/pareto.h"

#include <algorithm>
#include <limits>
#include <numeric>

namespace espalier {
namespace {

bool Dominates(const std::vector<double>& a, const std::vector<double>& b) {
  bool better = false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i] < b[i]) return false;
    better = better || a[i] > b[i];
  }
  return better;
}

}  // namespace

std::vector<int64_t> NonDominatedRanks(const std::vector<std::vector<double>>& objectives) {
  std::vector<int64_t> ranks(objectives.size(), -1);
  size_t left = objectives.size();
  for (int64_t rank = 0; left > 0; ++rank) {
    std::vector<size_t> front;
    for (size_t i = 0; i < objectives.size(); ++i) {
      if (ranks[i] >= 0) continue;
      bool dominated = false;
      for (size_t j = 0; j < objectives.size() && !dominated; ++j)
        dominated = ranks[j] < 0 && Dominates(objectives[j], objectives[i]);
      if (!dominated) front.push_back(i);
    }
    for (const size_t i : front) ranks[i] = rank;
    left -= front.size();
  }
  return ranks;
}

std::vector<double> CrowdingDistances(const std::vector<std::vector<double>>& objectives) {
  std::vector<double> distances(objectives.size(), 0);
  if (objectives.empty()) return distances;
  std::vector<size_t> order(objectives.size());
  std::iota(order.begin(), order.end(), 0);
  for (size_t m = 0; m < objectives.front().size(); ++m) {
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return objectives[a][m] < objectives[b][m]; });
    const double span = objectives[order.back()][m] - objectives[order.front()][m];
    distances[order.front()] = distances[order.back()] = std::numeric_limits<double>::infinity();
    if (span <= 0) continue;
    for (size_t i = 1; i + 1 < order.size(); ++i)
      distances[order[i]] += (objectives[order[i + 1]][m] - objectives[order[i - 1]][m]) / span;
  }
  return distances;
}

}  // namespace espalier

#include "search/front_marginals.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "env/base/error.h"

namespace espalier {
namespace {

constexpr double kNever = 1e100;  // of units that save nothing; leaves room for scales

}  // namespace

std::vector<Probe> ProbesOf(const Budget& budget, const std::vector<int64_t>& units,
                            std::span<const double> unit_costs, int64_t most) {
  std::vector<size_t> order(units.size());
  std::iota(order.begin(), order.end(), size_t{0});
  const auto cost = [&](size_t g) { return unit_costs[g] * static_cast<double>(units[g]); };
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return cost(a) > cost(b); });
  std::vector<Probe> probes;
  for (const size_t g : order) {
    if (static_cast<int64_t>(probes.size()) >= most) break;
    for (const double ratio : {0.5, 0.0}) {  // nothing between all and none: none
      Decision decision(units.size(), 1.0);
      decision[g] = ratio;
      Probe probe{g, budget.Nearest(decision)};
      probe.removed = 1 - static_cast<double>(probe.counts[g]) / static_cast<double>(units[g]);
      if (probe.removed <= 0) continue;
      probes.push_back(std::move(probe));
      break;
    }
  }
  return probes;
}

std::vector<double> DamageOf(const std::vector<Probe>& probes, const Space& space,
                             const Scores& ranks, CandidateEvaluator& evaluator) {
  std::vector<Selection> cuts = {KeepAll(space)};
  for (const Probe& probe : probes) cuts.push_back(SelectTop(space, ranks, probe.counts));
  const std::vector<CandidateScore> scores = evaluator.Evaluate(cuts);
  const auto value = [](const CandidateScore& score) {
    return score.failed ? std::numeric_limits<double>::lowest() : score.value;
  };
  // The uncut network, unless that failed.
  const CandidateScore& whole =
      scores.front().failed ? *std::ranges::max_element(scores, {}, value) : scores.front();
  const double least = whole.failed ? 1 : std::max(whole.standard_error, 1e-12);
  double most = least;
  std::vector<double> damage;
  for (const CandidateScore& score : std::span(scores).subspan(1)) {
    damage.push_back(score.failed ? 0 : std::max(whole.value - score.value, least));
    most = std::max(most, damage.back());
  }
  std::replace(damage.begin(), damage.end(), 0.0, most);
  return damage;
}

Scores MarginalScores(const std::vector<Probe>& probes, std::span<const double> damage,
                      const std::vector<int64_t>& units, std::span<const double> unit_costs) {
  ESPALIER_CHECK(probes.size() == damage.size(), probes.size(), " probes, ", damage.size(),
                 " damages");
  std::vector<double> known;
  for (size_t p = 0; p < probes.size(); ++p)
    known.push_back(damage[p] / (probes[p].removed * probes[p].removed));
  double median = 1;
  if (!known.empty()) {
    std::vector<double> sorted = known;
    const auto middle = sorted.begin() + static_cast<int64_t>(sorted.size() / 2);
    std::nth_element(sorted.begin(), middle, sorted.end());
    median = *middle;
  }
  std::vector<double> sensitivity(units.size(), median);
  for (size_t p = 0; p < probes.size(); ++p) sensitivity[probes[p].group] = known[p];
  Scores scores;
  for (size_t g = 0; g < units.size(); ++g) {
    const auto n = static_cast<double>(units[g]);
    std::vector<double>& curve = scores.emplace_back();
    for (int64_t k = 1; k <= units[g]; ++k) {
      const double added = sensitivity[g] * static_cast<double>(2 * k - 1) / (n * n);
      curve.push_back(unit_costs[g] > 0 ? added / unit_costs[g] : kNever);
    }
  }
  return scores;
}

}  // namespace espalier

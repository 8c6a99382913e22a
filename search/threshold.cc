#include "search/threshold.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "env/base/error.h"

namespace espalier {
namespace {

ThresholdTrial Try(const Space& space, const CostModel& cost, const Budget& budget,
                   const std::vector<std::vector<double>>& scores, double threshold) {
  ThresholdTrial trial{.threshold = threshold, .kept = CountsAbove(space, scores, threshold)};
  const std::vector<double> counts(trial.kept.begin(), trial.kept.end());
  double worst = -1;
  trial.feasible = true;
  for (const Bound& bound : budget.bounds()) {
    const double reached = cost.Evaluate(bound.kind, budget.convention(), counts);
    trial.feasible &= reached <= bound.limit;
    if (reached / bound.limit <= worst) continue;
    worst = reached / bound.limit;
    trial.excess = reached - bound.limit;
    if (bound.kind == CostKind::kLatency)  // milliseconds are few: as the same share of the MACs
      trial.excess *= cost.Full(budget.convention()).macs / bound.full;
  }
  return trial;
}

/// Holding the bounds first, then the smaller distance.
bool Better(const ThresholdTrial& a, const ThresholdTrial& b) {
  if (a.feasible != b.feasible) return a.feasible;
  return std::abs(a.excess) < std::abs(b.excess);
}

}  // namespace

std::vector<int64_t> CountsAbove(const Space& space, const std::vector<std::vector<double>>& scores,
                                 double threshold) {
  ESPALIER_CHECK(scores.size() == space.groups().size(), scores.size(), " score lists for ",
                 space.groups().size(), " groups");
  std::vector<int64_t> kept;
  for (size_t g = 0; g < scores.size(); ++g) {
    const Group& group = space.groups()[g];
    ESPALIER_CHECK(static_cast<int64_t>(scores[g].size()) == group.units, "group '", group.name,
                   "': ", scores[g].size(), " scores for ", group.units, " units");
    const auto above = std::count_if(scores[g].begin(), scores[g].end(),
                                     [&](double score) { return score > threshold; });
    const int64_t per_block =  // blocks agree on the rounded mean of what each would keep
        std::max<int64_t>(1, (2 * above + group.blocks) / (2 * group.blocks));
    kept.push_back(std::max(per_block * group.blocks, group.least));
  }
  return kept;
}

ThresholdSearch SearchThreshold(const Space& space, const CostModel& cost, const Budget& budget,
                                const std::vector<std::vector<double>>& scores,
                                const ThresholdOptions& options) {
  ESPALIER_CHECK(!budget.bounds().empty() && options.evaluations > 0, "nothing to search for");
  ThresholdSearch search;
  std::optional<ThresholdTrial> last, best;
  double threshold = 0.5, step = 0.25;
  for (int64_t evaluation = 1; evaluation <= options.evaluations; ++evaluation) {
    const ThresholdTrial trial = Try(space, cost, budget, scores, threshold);
    if (!best || Better(trial, *best)) best = trial;
    if (!last) {  // the released code stops here; `best` may still need the other side of the bound
      const bool within = std::abs(trial.excess) <= options.tolerance;
      if (within || evaluation == options.evaluations) {
        last = trial;
        search.evaluations = evaluation;
      }
    }
    if (last && best->feasible && -best->excess <= options.tolerance) break;
    threshold += trial.excess > 0 ? step : -step;
    step /= 2;
  }
  search.last = *last;
  search.best = *best;
  return search;
}

}  // namespace espalier

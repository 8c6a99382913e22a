#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "search/strategy.h"

namespace espalier {

struct FrontConfig {
  /// Fractions of the uncut network's first bounded cost for which plans are made, beside the run's
  /// own budget.
  std::vector<double> budgets = {0.75, 0.6, 0.45, 0.33, 0.25};
  /// marginals: what cutting each group alone does, with learned scales; legr: learned affine maps
  /// of the criterion's scores; criterion: its scores as they are.
  std::string method = "marginals";
  std::string criterion = "l2_norm(p=2)";  ///< ranks units inside a group; LeGR: squared L2 norm
  bool per_cost = true;  ///< scores divided by what a unit saves; marginals always are
  /// Candidates; an order evaluated at k budgets counts k; of `marginals` at most half are cuts of
  /// one group.
  int64_t evaluations = 600;
  int64_t samples = 1000;          ///< validation samples of the search
  int64_t compensate_batches = 0;  ///< of training samples that repair a cut before it is judged
  std::string precision = "fp32";  ///< of candidate evaluation: fp32, bf16
  int64_t population = 24;         ///< the paper: 64
  int64_t tournament = 6;          ///< the paper: 16 of 64
  double mutate = 0.1;             ///< share of the groups a mutation changes, as in the paper
  double sigma = 1.0;              ///< of the logarithm of a changed scale, as in the paper
};
Schema Describe(FrontConfig& config);

/// One search, every budget: learns one order in which units go, scale_g * score + shift_g over all
/// groups, so that cutting the order anywhere gives a good network. Plans are nested: what is kept
/// at a tighter budget is kept at every looser one.
///
/// Source   Chin, Ding, Zhang, Marculescu, "Towards Efficient Model Compression via Learned Global
///          Ranking", CVPR 2020, arXiv:1904.12368, section 3.3 and algorithm 1. `marginals`: scores
///          of front_marginals.h, in place of the criterion's, in the same search.
/// Deviates Fitness is the mean value over all budgets right after the cut, or after compensation;
///          the paper fine-tunes for 200 steps at the tightest. Of eight mutations those two are
///          evaluated at all budgets that do best at the run's own. Scores may be divided by the
///          cost they save first. Beside the scores as they are the search starts from an order
///          that takes all groups to be alike; shifts are drawn in units of the parent's own
///          spread, and marginals have none.
/// Result   the selection at the run's own budget; info["front"]: for each budget kept units, cost,
///          and what the cut network is expected to measure before any fine-tuning
///          (info["measured"] says when), in the metric's own units. Forecasts and their 95 %
///          intervals come from validation samples that the search did not see; where too few are
///          left, from those it saw, and then say so ("forecast_on") and have no interval.
/// Random   which validation samples are searched on from "front/samples", mutations from
///          "front/order"; data as in ranking.
/// State    context.folder/front.jsonl: one line per generation.
/// Errors   kConfig without data, without bounds, for budgets outside (0, 1]; kBudget for one below
///          the least reachable; kTrials when every order failed at the run's own.
class Front final : public Strategy {
 public:
  explicit Front(const FrontConfig& config);
  SearchResult Run(const Environment& environment, SearchContext& context) const override;

 private:
  const FrontConfig config_;
};

}  // namespace espalier

#include "search/ranking.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>

#include "criteria/compensation.h"
#include "criteria/normalise.h"
#include "criteria/value_basis.h"
#include "env/base/clock.h"

namespace espalier {

namespace {

const std::vector<std::string> kSchedules = {"linear", "cubic", "cosine", "exponential"};

/// How much of the way is behind after a share of the steps: 0 -> 0, 1 -> 1.
double ShareDone(const std::string& schedule, double share) {
  constexpr double kRate = 5;  // of exponential, for which sources give none
  if (schedule == "cubic") return 1 - std::pow(1 - share, 3);
  if (schedule == "cosine") return (1 - std::cos(std::numbers::pi * share)) / 2;
  if (schedule == "exponential") return std::expm1(-kRate * share) / std::expm1(-kRate);
  return share;
}

/// The bounds of a budget on the way there from the uncut network.
Budget OnTheWay(const CostModel& cost, const Budget& budget, double progress) {
  if (progress >= 1) return budget;
  BudgetConfig config = budget.config();
  for (const Bound& bound : budget.bounds())
    config.bound(bound.kind) = Quantity{bound.full + progress * (bound.limit - bound.full), false};
  return Budget(cost, config);
}

/// Scores of the units that are left; all others below them, the first to go lowest.
class Standing {
 public:
  explicit Standing(const Space& space) : space_(space), left_(KeepAll(space)) {
    for (const Group& group : space.groups()) gone_.emplace_back(group.units, 0);
  }

  const Selection& left() const { return left_; }
  const Scores& scores() const { return scores_; }
  Scores ScoresLeft() const {
    Scores open(left_.size());
    for (size_t g = 0; g < left_.size(); ++g)
      for (const int64_t unit : left_[g]) open[g].push_back(scores_[g][static_cast<size_t>(unit)]);
    return open;
  }
  void Score(Scores scores) {
    scores_ = std::move(scores);
    ++step_;
    for (size_t g = 0; g < left_.size(); ++g) {
      double least = 0;
      for (const int64_t unit : left_[g])
        least = std::min(least, scores_[g][static_cast<size_t>(unit)]);
      for (size_t unit = 0; unit < gone_[g].size(); ++unit)
        if (gone_[g][unit] > 0)
          scores_[g][unit] = least - static_cast<double>(step_ - gone_[g][unit]);
    }
  }
  void Keep(std::vector<int64_t> counts) {
    for (size_t g = 0; g < left_.size(); ++g) counts[g] = std::min(counts[g], std::ssize(left_[g]));
    const Selection before = std::exchange(left_, SelectTop(space_, scores_, counts));
    for (size_t g = 0; g < left_.size(); ++g)
      for (const int64_t unit : before[g])
        if (!std::ranges::binary_search(left_[g], unit))
          gone_[g][static_cast<size_t>(unit)] = step_;
  }

 private:
  const Space& space_;
  Selection left_;
  Scores scores_;
  std::vector<std::vector<int64_t>>
      gone_;  // [groups][units] the step after which it went; 0 = left
  int64_t step_ = 0;
};

}  // namespace

Schema Describe(RankingConfig& config) {
  Schema schema;
  schema.Add("criterion", &config.criterion,
             "how units are ranked: NAME or NAME(key=value, ...); `espalier list criteria`");
  AddScopeFields(schema, config.scope);
  AddCalibrationFields(schema, config.calibration);
  schema.Add("steps", &config.steps, "towards the budget; what is left is scored anew before each",
             {.low = 1});
  schema.Add("schedule", &config.schedule, "of the steps: how soon most is gone", kSchedules);
  schema.Add("turn_values", &config.turn_values,
             "attention values first turn to their singular directions, which cuts then keep");
  schema.Add("compensate", &config.compensate,
             "consumers move what they lose to the columns they keep, in closed form");
  schema.Add("ridge", &config.ridge, "of the compensation, relative to the mean Gram diagonal",
             RealRange{.low = 0, .open_low = true});
  return schema;
}

RankingSearch::RankingSearch(const RankingConfig& config) : config_(config) {
  MakeCriterion(config.criterion);
  ParseScope(config.scope.scope);
  ParseNormaliser(config.scope.normaliser);
}

SearchResult RankingSearch::Run(const Environment& environment, SearchContext& context) const {
  const Timer timer;
  SearchResult result;
  const Space& space = environment.space;
  ValueBasis basis;
  basis.store = environment.network().store;
  if (config_.turn_values) {
    basis = TurnValues(space, basis.store,
                       CalibrationFrom(environment, context, "ranking", config_.calibration));
    result.info["turned"] = basis.names();
    result.info["not_turned"] = basis.unchanged;
  }
  ParameterStore& weights = basis.store;

  Standing standing(space);
  Statistics statistics;  // of the last step
  Ranking ranking;
  const bool once = config_.steps == 1 && !config_.turn_values;
  const Needs also = config_.compensate && once ? Needs{Need::kGram} : Needs{};
  for (int64_t step = 1; step <= config_.steps; ++step) {
    const ParameterStore left =
        step == 1 ? weights : MaskStore(weights, MakePlan(space, standing.left()));
    UnitScores found =
        ScoreUnits(config_.criterion, environment, context,
                   step == 1 ? "ranking" : Str("ranking/", step), config_.calibration, also, &left);
    basis.Arrange(found.scores, standing.left());
    standing.Score(std::move(found.scores));
    statistics = std::move(found.statistics);
    const double progress =
        ShareDone(config_.schedule, static_cast<double>(step) / static_cast<double>(config_.steps));
    ranking = RankUnderBudget(space, environment.cost,
                              OnTheWay(environment.cost, environment.budget, progress),
                              standing.ScoresLeft(), config_.scope);
    standing.Keep(ranking.kept);
  }
  result.scores = standing.scores();
  result.selection = standing.left();
  result.info.update({{"criterion", config_.criterion},
                      {"scope", config_.scope.scope},
                      {"normaliser", config_.scope.normaliser},
                      {"steps", config_.steps},
                      {"classes", ranking.classes},
                      {"share", ranking.share}});
  if (config_.turn_values) result.weights = weights;
  if (config_.compensate) {
    if (!once)  // of all units, where they are now
      statistics =
          CollectStatistics(space, weights, {Need::kGram},
                            CalibrationFrom(environment, context, "ranking", config_.calibration));
    Compensation done =
        CompensateConsumers(space, weights, result.selection, statistics, config_.ridge);
    result.info["compensated"] = done.layers;
    result.info["not_compensated"] = done.skipped;
    result.weights = std::move(done.store);
  }
  result.seconds = timer.Seconds();
  return result;
}

ESPALIER_REGISTER_STRATEGY(RankingSearch, RankingConfig,
                           {.name = "ranking",
                            .summary = "one ranking of all units by a criterion, within a scope",
                            .source = "arXiv:2301.12900, arXiv:2407.04616; see criteria/scope.h",
                            .facts = {kNeedsData, kNeedsGradients, "deterministic"}})

}  // namespace espalier

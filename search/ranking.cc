#include "search/ranking.h"

#include <chrono>

#include "criteria/compensation.h"
#include "criteria/normalise.h"

namespace espalier {

Schema Describe(RankingConfig& config) {
  Schema schema;
  schema.Add("criterion", &config.criterion,
             "how units are ranked: NAME or NAME(key=value, ...); `espalier list criteria`");
  AddScopeFields(schema, config.scope);
  AddCalibrationFields(schema, config.calibration);
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
  const auto start = std::chrono::steady_clock::now();
  UnitScores found =
      ScoreUnits(config_.criterion, environment, context, "ranking", config_.calibration,
                 config_.compensate ? Needs{Need::kGram} : Needs{});
  SearchResult result;
  result.scores = std::move(found.scores);
  const Ranking ranking = RankUnderBudget(environment.space, environment.cost, environment.budget,
                                          result.scores, config_.scope);
  result.selection = SelectTop(environment.space, result.scores, ranking.kept);
  result.info = {{"criterion", config_.criterion},
                 {"scope", config_.scope.scope},
                 {"normaliser", config_.scope.normaliser},
                 {"classes", ranking.classes},
                 {"share", ranking.share}};
  if (config_.compensate) {
    Compensation done = CompensateConsumers(environment.space, environment.network().store,
                                            result.selection, found.statistics, config_.ridge);
    result.info["compensated"] = done.layers;
    result.info["not_compensated"] = done.skipped;
    result.weights = std::move(done.store);
  }
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

ESPALIER_REGISTER_STRATEGY(RankingSearch, RankingConfig,
                           {.name = "ranking",
                            .summary = "one ranking of all units by a criterion, within a scope",
                            .source = "arXiv:2301.12900, arXiv:2407.04616; see criteria/scope.h",
                            .facts = {kNeedsData, kNeedsGradients, "deterministic"}})

}  // namespace espalier

#include "search/ranking.h"

#include <algorithm>
#include <chrono>
#include <memory>

#include "criteria/compensation.h"
#include "criteria/criterion.h"
#include "criteria/normalise.h"

namespace espalier {

Schema Describe(RankingConfig& config) {
  Schema schema;
  schema.Add("criterion", &config.criterion,
             "how units are ranked: NAME or NAME(key=value, ...); `espalier list criteria`");
  AddScopeFields(schema, config.scope);
  schema.Add("batches", &config.batches, "calibration batches, for criteria that need data",
             {.low = 1});
  schema.Add("batch_size", &config.batch_size, "training images a batch", {.low = 1});
  schema.Add("samples", &config.samples, "gradients of single samples are taken of so many at most",
             {.low = 1});
  schema.Add("augment", &config.augment, "training augmentation on the images used");
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

Calibration CalibrationFrom(const Environment& environment, const SearchContext& context,
                            const std::string& who, int64_t batches, int64_t batch_size,
                            bool augment) {
  const Splits& splits = environment.Data(who);
  const int64_t size = std::min(batch_size, splits.train().count());
  const auto loader = std::make_shared<Loader>(
      splits, splits.train(),
      Loader::Options{.batch_size = size,
                      .augment = augment,
                      .seed = StreamSeed(context.seed, context.trial, who + "/data")});
  Calibration calibration;
  calibration.batches = batches;
  calibration.device = environment.device;
  calibration.get = [loader](int64_t batch) {
    const int64_t epoch_length = loader->batches_per_epoch();
    const Loader::Batch found = loader->Get(batch / epoch_length, batch % epoch_length);
    return CalibrationBatch{.inputs = {found.images}, .labels = found.labels};
  };
  calibration.stop = [&context] { return context.StopRequested(); };
  calibration.progress = [&context, who](int64_t done, int64_t total) {
    context.Advance(done, total, who + ": statistics");
  };
  return calibration;
}

SearchResult RankingSearch::Run(const Environment& environment, SearchContext& context) const {
  const auto start = std::chrono::steady_clock::now();
  const auto criterion = MakeCriterion(config_.criterion);
  Needs needs = criterion->needs();
  if (config_.compensate) needs.insert(Need::kGram);
  const ParameterStore& store = environment.network().store;
  Statistics statistics;
  if (!needs.empty()) {
    Calibration calibration = CalibrationFrom(environment, context, "ranking", config_.batches,
                                              config_.batch_size, config_.augment);
    calibration.max_samples = config_.samples;
    statistics = CollectStatistics(environment.space, store, needs, calibration);
  }
  SearchResult result;
  result.scores =
      ScoreGroups(*criterion, environment.space, store,
                  StreamSeed(context.seed, context.trial, "ranking/criterion"), &statistics);
  const Ranking ranking = RankUnderBudget(environment.space, environment.cost, environment.budget,
                                          result.scores, config_.scope);
  result.selection = SelectTop(environment.space, result.scores, ranking.kept);
  result.info = {{"criterion", config_.criterion},
                 {"scope", config_.scope.scope},
                 {"normaliser", config_.scope.normaliser},
                 {"classes", ranking.classes},
                 {"share", ranking.share}};
  if (config_.compensate) {
    Compensation done =
        CompensateConsumers(environment.space, store, result.selection, statistics, config_.ridge);
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

#include "search/unit_scores.h"

#include <algorithm>
#include <memory>

#include "search/task_loss.h"

namespace espalier {

void AddCalibrationFields(Schema& schema, CalibrationConfig& config) {
  schema.Add("batches", &config.batches, "calibration batches, for criteria that need data",
             {.low = 1});
  schema.Add("batch_size", &config.batch_size, "training images a batch", {.low = 1});
  schema.Add("samples", &config.samples, "gradients of single samples are taken of so many at most",
             {.low = 1});
  schema.Add("augment", &config.augment, "training augmentation on the images used");
}

Calibration CalibrationFrom(const Environment& environment, const SearchContext& context,
                            const std::string& who, const CalibrationConfig& config) {
  const Dataset& train = environment.Data(who).train();
  const auto loader = std::make_shared<Loader>(
      train,
      Loader::Options{.batch_size = std::min(config.batch_size, train.count()),
                      .augment = config.augment,
                      .seed = StreamSeed(context.seed, context.trial, who + "/calibration")});
  Calibration calibration;
  calibration.batches = config.batches;
  calibration.max_samples = config.samples;
  calibration.device = environment.device;
  calibration.get = [loader](int64_t batch) { return loader->Get(batch); };
  calibration.loss = TaskLoss(environment);
  calibration.objective = TaskObjective(environment);
  calibration.stop = [&context] { return context.StopRequested(); };
  calibration.progress = [&context, who](int64_t done, int64_t total) {
    context.Advance(done, total, who + ": statistics");
  };
  return calibration;
}

UnitScores ScoreUnits(const std::string& text, const Environment& environment,
                      const SearchContext& context, const std::string& who,
                      const CalibrationConfig& config, const Needs& also,
                      const ParameterStore* weights) {
  std::unique_ptr<const Criterion> criterion = MakeCriterion(text);
  const ParameterStore& store = weights != nullptr ? *weights : environment.network().store;
  Needs needs = criterion->needs();
  needs.insert(also.begin(), also.end());
  UnitScores found;
  if (!needs.empty()) {
    Calibration calibration = CalibrationFrom(environment, context, who, config);
    const auto report = [&](std::string_view name, double value) {
      context.Report(0, Str(who, "/", name), value);
    };
    if (auto tuned = criterion->Tuned(environment.space, store, calibration, report))
      criterion = std::move(tuned);
    criterion->Adjust(calibration);
    found.statistics = CollectStatistics(environment.space, store, needs, calibration);
  }
  found.scores =
      ScoreGroups(*criterion, environment.space, store,
                  StreamSeed(context.seed, context.trial, who + "/criterion"), &found.statistics);
  return found;
}

}  // namespace espalier

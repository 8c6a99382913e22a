#include "search/preparation.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "env/base/error.h"
#include "env/train/training_step.h"
#include "search/compensate.h"
#include "search/matched_features.h"

namespace espalier {
namespace {

constexpr int64_t kBatch = 128;  // samples
/// Of outputs that a layer is fitted on: many for its few hundred inputs.
constexpr int64_t kPositions = 16384;

/// Of `all` batches, the fraction a candidate gets; at least one of any.
int64_t Share(int64_t all, bool scaled, double amount) {
  if (all == 0 || !scaled) return all;
  return std::max<int64_t>(1, std::llround(amount * static_cast<double>(all)));
}

}  // namespace

std::function<void(Network&, const Selection&)> Preparation(const std::string& name,
                                                            const SearchLoopConfig& config,
                                                            const Environment& environment,
                                                            const SearchContext& context,
                                                            double amount) {
  const auto need = [&](const char* fidelity, const char* key, int64_t batches) {
    if (config.fidelity == fidelity && batches == 0)
      throw Error(ErrorKind::kConfig,
                  Str("[strategy] fidelity = \"", fidelity, "\" needs ", key, " > 0"));
  };
  need("recalibration", "recalibrate_batches", config.recalibrate_batches);
  need("finetune", "finetune_batches", config.finetune_batches);
  const int64_t recalibrate =
      Share(config.recalibrate_batches, config.fidelity == "recalibration", amount);
  const int64_t finetune = Share(config.finetune_batches, config.fidelity == "finetune", amount);
  if (recalibrate == 0 && finetune == 0 && config.compensate_batches == 0) return {};
  const Dataset& samples = environment.Data(name).train();
  const auto options = [&](const char* purpose, bool augment) -> Loader::Options {
    return {.batch_size = std::min(kBatch, samples.count()),
            .augment = augment,
            .seed = StreamSeed(context.seed, context.trial, Str(name, "/", purpose))};
  };
  TrainConfig train;
  train.lr = config.finetune_lr;
  train.recorded = false;  // a few steps each
  const Task task = environment.task;
  struct Original {
    Network network;
    std::vector<Tensor> inputs;
  };
  std::shared_ptr<Original> original;  // what candidates are fitted to, if they are
  if (config.compensate_batches > 0) {
    original = std::make_shared<Original>(Original{environment.network(), {}});
    original->network.store = original->network.store.To(environment.device);
    Loader loader(samples, options("compensate", false));
    original->inputs = JoinedInputs(loader, 0, config.compensate_batches, environment.device);
  }
  const bool features = task.MakeObjective().Has(kNeedsFeatures);
  return [=, &samples, space = &environment.space, tuned = options("finetune", true),
          measured = options("recalibrate", false)](Network& cut, const Selection& selection) {
    if (original) {
      cut.store = cut.store.Clone();
      Compensate(original->network, MakePlan(*space, selection), cut, original->inputs,
                 {.positions = kPositions});
    }
    if (finetune > 0) {
      Task own = task;
      if (features) own.features = MatchedFeatures(*space, selection);
      Loader loader(samples, tuned);
      TrainBriefly(cut, loader, own, train, finetune, tuned.seed);
    }
    if (recalibrate > 0) {
      Loader loader(samples, measured);
      RecalibrateBatchNorm(cut, loader, recalibrate);
    }
  };
}

std::string MeasuredWhen(const SearchLoopConfig& config) {
  std::vector<std::string> steps;
  if (config.compensate_batches > 0) steps.emplace_back("compensation");
  if (config.finetune_batches > 0)
    steps.push_back(Str(config.finetune_batches, " batches of fine-tuning"));
  if (config.recalibrate_batches > 0) steps.emplace_back("batch norm recalibration");
  if (steps.empty()) return "right after the cut";
  std::string text = "after the cut";
  for (size_t i = 0; i < steps.size(); ++i)
    text += (i + 1 < steps.size() ? ", " : " and ") + steps[i];
  return text;
}

}  // namespace espalier

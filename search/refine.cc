#include "search/refine.h"

#include <ATen/ATen.h>

#include <cmath>
#include <numbers>
#include <set>

#include "controllers/adam.h"
#include "env/eval/evaluator.h"
#include "env/graph/executor.h"
#include "env/graph/memory_format.h"
#include "search/compensate.h"

namespace espalier {
namespace {

/// Batches of one refinement, in one order: steps take the next ones.
class Batches {
 public:
  Batches(const Environment& environment, const RefineConfig& config, const SearchContext& context)
      : device_(environment.device),
        loader_(environment.Data("refine").train(),
                {.batch_size = config.batch_size,
                 .augment = config.augment,
                 .seed = StreamSeed(context.seed, context.trial, "refine/data")}) {}

  std::vector<Tensor> Next() { return loader_.Get(used_++).To(device_).inputs; }
  std::vector<Tensor> Together(int64_t batches) {
    used_ += batches;
    return JoinedInputs(loader_, used_ - batches, batches, device_);
  }
  int64_t used() const { return used_; }

 private:
  at::Device device_;
  Loader loader_;
  int64_t used_ = 0;
};

void ThrowIfStopped(const SearchContext& context) {
  if (context.StopRequested()) {
    throw Error(ErrorKind::kInterrupted, "stopped while refining the cut network",
                "run the same command again to continue");
  }
}

/// Normalisation scales and shifts, and biases of linear layers, by store name.
std::vector<std::string> AffineNames(const Network& network) {
  static const std::set<std::string> kNorms = {"aten::batch_norm", "aten::layer_norm",
                                               "aten::group_norm", "aten::instance_norm"};
  std::set<std::string> seen;
  std::vector<std::string> names;
  for (const Op& op : network.graph.ops) {
    const std::string& name = op.handle.operator_name().name;
    std::vector<std::string> arguments;
    if (kNorms.contains(name)) arguments = {"weight", "bias"};
    if (name == "aten::linear") arguments = {"bias"};
    for (const std::string& argument : arguments) {
      const ValueId value = op.ValueArg(argument);
      if (value == kNoValue) continue;
      const std::string& stored = network.graph.values[static_cast<size_t>(value)].target;
      if (stored.empty() || network.store.Kind(stored) != StoreKind::kParameter) continue;
      if (seen.insert(network.store.Canonical(stored)).second) {
        names.push_back(network.store.Canonical(stored));
      }
    }
  }
  return names;
}

void Tune(const Environment& environment, Network& cut, const RefineConfig& config,
          SearchContext& context, Batches& batches, nlohmann::json& info) {
  const Task task{.loss = config.tune_loss,
                  .temperature = config.temperature,
                  .uncut = std::make_shared<const Network>(environment.network())};
  const Objective objective = task.MakeObjective();
  const UncutOutputs uncut(task, /*needed=*/true, environment.device);
  ParameterStore store = cut.store.Clone().To(environment.device);
  UseChannelsLast(store);
  std::vector<Tensor> tuned;
  const std::vector<std::string> names = AffineNames(cut);
  for (const std::string& name : names) {
    tuned.push_back(store.Get(name).detach().set_requires_grad(true));
    store.Set(name, tuned.back());
  }
  const Executor executor(cut.graph);
  const Binding binding = executor.Bind(store);
  Adam adam(tuned, {.lr = config.tune_lr});
  const auto steps = static_cast<double>(config.tune_batches);
  for (int64_t step = 0; step < config.tune_batches; ++step) {
    ThrowIfStopped(context);
    Outcome outcome{{.inputs = batches.Next(), .targets = {}}, {}};
    outcome.uncut = uncut.Run(outcome.batch.inputs);
    outcome.outputs = executor.Run(binding, outcome.batch.inputs);
    const Tensor loss = objective.Mean(outcome);
    loss.backward();
    const auto value = loss.item<double>();
    if (!std::isfinite(value)) {
      throw Error(ErrorKind::kTrials, Str("refine: the loss is ", value, " at step ", step + 1),
                  "lower refine.tune_lr");
    }
    adam.set_lr(config.tune_lr * 0.5 *
                (1 + std::cos(std::numbers::pi * static_cast<double>(step) / steps)));
    adam.Step();
    context.Report(step + 1, "refine/loss", value);
    context.Advance(step + 1, config.tune_batches, Str("refine: loss ", value));
    if (step == 0) info["tune_loss_first"] = value;
    info["tune_loss_last"] = value;
  }
  for (size_t i = 0; i < names.size(); ++i) cut.store.Set(names[i], tuned[i].detach());
  info["tuned_parameters"] = names.size();
}

}  // namespace

Schema Describe(RefineConfig& config) {
  const RealRange positive{.low = 0, .open_low = true};
  Schema schema;
  schema.Add("batch_size", &config.batch_size, "training samples a batch, for every step below",
             {.low = 1});
  schema.Add("compensate_batches", &config.compensate_batches,
             "batches for least-squares compensation of the consumers; 0 = off", {.low = 0});
  schema.Add("ridge", &config.ridge, "of the compensation, relative to the mean Gram diagonal",
             positive);
  schema.Add("residual", &config.residual, "branches are fitted to the uncut sum minus the trunk");
  schema.Add("recalibrate_batches", &config.recalibrate_batches,
             "batches that re-estimate batch-norm statistics; 0 = off", {.low = 0});
  schema.Add("tune_batches", &config.tune_batches,
             "steps that tune normalisation parameters and linear biases against the uncut "
             "outputs; 0 = off",
             {.low = 0});
  schema.Add("tune_lr", &config.tune_lr, "Adam, cosine to 0", positive);
  schema.Add("tune_loss", &config.tune_loss, "distance from the uncut outputs",
             {"kl", "mse_outputs"});
  schema.Add("temperature", &config.temperature, "of the kl loss", positive);
  schema.Add("augment", &config.augment, "training augmentation on the samples used");
  return schema;
}

bool IsOn(const RefineConfig& config) {
  return config.compensate_batches > 0 || config.recalibrate_batches > 0 || config.tune_batches > 0;
}

RefineResult Refine(const Environment& environment, const Plan& plan, const Network& cut,
                    const RefineConfig& config, SearchContext& context) {
  RefineResult result{.network = cut, .info = nlohmann::json::object()};
  if (!IsOn(config)) return result;
  result.network.store = cut.store.Clone().To(environment.device);
  Batches batches(environment, config, context);
  if (config.compensate_batches > 0) {
    ThrowIfStopped(context);
    const std::vector<Tensor> inputs = batches.Together(config.compensate_batches);
    Network uncut = environment.network();
    uncut.store = uncut.store.To(environment.device);
    const CompensateResult done = Compensate(uncut, plan, result.network, inputs,
                                             {.ridge = config.ridge, .residual = config.residual});
    auto& layers = result.info["compensated"] = nlohmann::json::array();
    for (const CompensatedLayer& layer : done.layers) {
      layers.push_back({{"name", layer.name},
                        {"target", layer.target},
                        {"error_before", layer.error_before},
                        {"error_after", layer.error_after}});
    }
    result.info["not_compensated"] = done.skipped;
  }
  if (config.recalibrate_batches > 0) {
    ThrowIfStopped(context);
    Loader loader(environment.Data("refine").train(),
                  {.batch_size = config.batch_size,
                   .augment = config.augment,
                   .seed = StreamSeed(context.seed, context.trial, "refine/recalibrate")});
    RecalibrateBatchNorm(result.network, loader, config.recalibrate_batches);
  }
  if (config.tune_batches > 0) {
    Tune(environment, result.network, config, context, batches, result.info);
  }
  result.info["batches"] = batches.used() + config.recalibrate_batches;
  result.network.store = result.network.store.To(at::kCPU);
  for (const std::string& name : result.network.store.CanonicalNames()) {
    result.network.store.Set(name, result.network.store.Get(name).contiguous());
  }
  return result;
}

}  // namespace espalier

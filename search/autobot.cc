#include "search/autobot.h"

#include <ATen/ATen.h>

#include <cmath>
#include <limits>

#include "controllers/adam.h"
#include "controllers/bottleneck.h"
#include "controllers/gate_folding.h"
#include "env/base/clock.h"
#include "env/base/files.h"
#include "env/base/log.h"
#include "env/graph/io.h"
#include "env/graph/memory_format.h"
#include "search/fingerprint.h"
#include "search/threshold.h"

namespace espalier {
namespace {

/// Weights as the search runs them: on the device, convolutions channels_last, frozen.
ParameterStore FrozenStore(const ParameterStore& store, at::Device device) {
  ParameterStore frozen = store.Clone().To(device);
  UseChannelsLast(frozen);
  return frozen;
}

std::vector<std::vector<double>> ByGroup(const Space& space, const Tensor& per_unit) {
  const Tensor values = per_unit.to(at::kCPU, at::kDouble).contiguous();
  const auto* first = values.const_data_ptr<double>();
  std::vector<std::vector<double>> groups;
  for (size_t g = 0; g < space.groups().size(); ++g) {
    const double* begin = first + space.unit_offset(g);
    groups.emplace_back(begin, begin + space.groups()[g].units);
  }
  return groups;
}

/// One search: what changes from step to step, and its checkpoint.
class AutobotRun {
 public:
  AutobotRun(const AutobotConfig& config, const Environment& environment, SearchContext& context)
      : config_(config),
        env_(environment),
        context_(context),
        bottleneck_(environment.space, config.initial, environment.device),
        adam_({bottleneck_.alpha()}, {.lr = config.lr}),
        folding_(environment.network(), environment.space.reads()),
        weights_(FrozenStore(environment.network().store, environment.device)),
        executor_(environment.network().graph),
        objective_(environment.task.MakeObjective(config.label_smoothing)),
        uncut_(environment.task, objective_.Has(kNeedsUncut), environment.device),
        loader_(environment.Data("autobot").train(),
                {.batch_size = config.batch_size,
                 .augment = config.augment,
                 .seed = StreamSeed(context.seed, context.trial, "autobot/data")}) {
    ESPALIER_CHECK(!environment.budget.bounds().empty(), "autobot needs a bound to aim at");
    snapshot_ = bottleneck_.Lambda().detach();
    if (!context.folder.empty()) Load();
  }

  void Train() {
    while (step_ < config_.batches) {
      if (context_.StopRequested()) {
        Save();
        throw Error(ErrorKind::kInterrupted,
                    Str("autobot stopped before step ", step_ + 1, " of ", config_.batches),
                    "run the same command again to continue");
      }
      Step();
      if (step_ % config_.checkpoint_every == 0 || step_ == config_.batches) Save();
    }
  }

  SearchResult Result() const {
    SearchResult result;
    result.scores = ByGroup(env_.space, snapshot_);
    const ThresholdSearch found =
        SearchThreshold(env_.space, env_.cost, env_.budget, result.scores,
                        {.tolerance = config_.tolerance, .evaluations = config_.evaluations});
    const bool faithful = config_.threshold == "last";
    const ThresholdTrial& chosen = faithful ? found.last : found.best;
    std::vector<int64_t> kept = chosen.kept;
    const bool projected = !env_.budget.Feasible(kept) && !(faithful && Unconstrained());
    if (projected) {  // a bound, rounding or a per-group limit is still violated
      Decision decision;
      for (size_t g = 0; g < kept.size(); ++g) {
        decision.push_back(static_cast<double>(kept[g]) /
                           static_cast<double>(env_.space.groups()[g].units));
      }
      kept = env_.budget.Project(decision);
    }
    result.selection = SelectTop(env_.space, result.scores, kept);
    result.seconds = seconds_;
    const auto describe = [](const ThresholdTrial& trial) {
      return nlohmann::json{
          {"threshold", trial.threshold}, {"excess", trial.excess}, {"feasible", trial.feasible}};
    };
    result.info = {{"steps", step_},
                   {"snapshot_step", snapshot_step_},
                   {"snapshot_loss", best_loss_},
                   {"near_binary", NearBinary()},
                   {"threshold_rule", config_.threshold},
                   {"threshold_last", describe(found.last)},
                   {"threshold_best", describe(found.best)},
                   {"threshold_evaluations", found.evaluations},
                   {"projected", projected}};
    return result;
  }

 private:
  /// Only cost bounds: the faithful threshold may then miss them by its tolerance.
  bool Unconstrained() const {
    const BudgetConfig& budget = env_.budget.config();
    return budget.round_to <= 1 && budget.min_keep <= 0 && budget.max_keep >= 1 &&
           budget.keep.empty();
  }

  double NearBinary() const {
    const Tensor closed = snapshot_.lt(0.05).logical_or(snapshot_.gt(0.95));
    return closed.to(at::kDouble).mean().item<double>();
  }

  void Step() {
    const Timer timer;
    Outcome outcome{loader_.Get(step_).To(env_.device), {}};
    outcome.uncut = uncut_.Run(outcome.batch.inputs);
    const Tensor lambda = bottleneck_.Lambda();  // §2, [units]
    std::vector<Gate> gates = bottleneck_.Gates(lambda);
    ParameterStore store = weights_;  // shares tensors
    if (config_.fold_gates) folding_.Apply(weights_, gates, store);
    outcome.outputs = executor_.Run(executor_.Bind(store), outcome.batch.inputs, {.gates = gates});
    // §5: L = L_CE + beta L_F + gamma L_bin; L_CE is the task's loss
    const Tensor l_ce = objective_.Mean(outcome).to(at::kCPU, at::kDouble);
    const Tensor l_f = BudgetLoss(env_.cost, env_.budget.convention(), env_.budget.bounds(),
                                  bottleneck_.SoftCounts(lambda));
    const Tensor l_bin = bottleneck_.BinaryLoss(lambda);
    const Tensor loss = l_ce + config_.beta * l_f + config_.gamma * l_bin;
    loss.backward();

    const auto value = loss.item<double>();
    if (!std::isfinite(value)) {
      throw Error(ErrorKind::kTrials, Str("autobot: the loss is ", value, " at step ", step_ + 1),
                  "lower strategy.lr, or check the weights and the data normalisation");
    }
    const bool late = static_cast<double>(step_) >
                          config_.snapshot_after * static_cast<double>(config_.batches) ||
                      step_ + 1 == config_.batches;  // one step or two: the last qualifies
    if (late && value < best_loss_) {  // §5, best-snapshot rule: lambda used in this forward
      best_loss_ = value;
      snapshot_ = lambda.detach();
      snapshot_step_ = step_;
    }
    adam_.Step();
    ++step_;
    seconds_ += timer.Seconds();
    context_.Report(step_, Str("loss/", objective_.text()), l_ce.item<double>());
    context_.Report(step_, "loss/budget", config_.beta * l_f.item<double>());
    context_.Report(step_, "loss/binary", config_.gamma * l_bin.item<double>());
    context_.Report(step_, "loss", value);
    context_.Advance(step_, config_.batches, Str("loss ", value));
  }

  std::filesystem::path CheckpointPath() const { return context_.folder / "autobot.safetensors"; }

  /// What makes a checkpoint this search's: config, seed, weights, groups.
  std::string Fingerprint() const {
    AutobotConfig config = config_;
    std::string text = DumpToml("strategy", Describe(config), {});
    return SearchFingerprint(text + objective_.text(), env_, context_);
  }

  void Save() const {
    if (context_.folder.empty()) return;
    const at::NoGradGuard no_grad;
    const auto number = [](auto value) {
      return at::tensor({static_cast<double>(value)}, at::kDouble);
    };
    TensorFile file;
    file.metadata = {{"format", "espalier-autobot"}, {"fingerprint", Fingerprint()}};
    file.tensors = {{"alpha", bottleneck_.alpha().detach().cpu()},
                    {"first", adam_.state.first.front().cpu()},
                    {"second", adam_.state.second.front().cpu()},
                    {"snapshot", snapshot_.cpu()},
                    {"step", number(step_)},
                    {"snapshot_step", number(snapshot_step_)},
                    {"best_loss", number(best_loss_)},
                    {"seconds", number(seconds_)}};
    WriteSafetensors(CheckpointPath(), file);
  }

  void Load() {
    if (!std::filesystem::exists(CheckpointPath())) return;
    const at::NoGradGuard no_grad;
    const TensorFile file = ReadSafetensors(CheckpointPath());
    const auto mark = file.metadata.find("fingerprint");
    if (mark == file.metadata.end() || mark->second != Fingerprint()) {
      throw Error(ErrorKind::kData,
                  Str("'", CheckpointPath().string(), "' is the checkpoint of another search"),
                  "choose another run folder, or remove the file to start over");
    }
    std::map<std::string, Tensor> tensors(file.tensors.begin(), file.tensors.end());
    const auto fail = [&](const auto&... parts) {
      throw Error(ErrorKind::kData, Str("'", CheckpointPath().string(), "': ", parts...),
                  "the file is damaged; remove it to start over");
    };
    const auto take = [&](const char* name, const Tensor& like) -> const Tensor& {
      const Tensor& found = tensors[name];  // undefined when it is missing
      if (!found.defined() || found.sizes() != like.sizes() ||
          found.scalar_type() != like.scalar_type())
        fail("tensor '", name, "' is missing or not ", like.scalar_type(), " ", like.sizes());
      return found;
    };
    const auto number = [&](const char* name) {
      return take(name, at::zeros({1}, at::kDouble)).item<double>();
    };
    const auto whole = [&](const char* name, double low) {
      const double value = number(name);
      constexpr double kMost = 1e15;  // every whole number up to it is a double
      if (!(value >= low && value <= kMost)) fail("'", name, "' is ", value);
      return static_cast<int64_t>(value);
    };
    const Tensor alpha = bottleneck_.alpha().detach();  // shares its memory
    alpha.copy_(take("alpha", alpha));
    for (const auto& [name, moment] : {std::pair("first", adam_.state.first.front()),
                                       std::pair("second", adam_.state.second.front())})
      moment.copy_(take(name, moment));
    snapshot_ = take("snapshot", snapshot_).to(env_.device);
    step_ = whole("step", 0);
    adam_.state.step = step_;
    snapshot_step_ = whole("snapshot_step", -1);
    best_loss_ = number("best_loss");
    seconds_ = number("seconds");
    LogInfo("autobot: continuing after step ", step_, " of ", config_.batches);
  }

  const AutobotConfig& config_;
  const Environment& env_;
  SearchContext& context_;
  Bottleneck bottleneck_;
  Adam adam_;
  GateFolding folding_;
  ParameterStore weights_;
  Executor executor_;
  const Objective objective_;
  const UncutOutputs uncut_;
  Loader loader_;
  int64_t step_ = 0;  // finished steps
  Tensor snapshot_;   // lambda of the best late step, [units]
  int64_t snapshot_step_ = -1;
  double best_loss_ = std::numeric_limits<double>::infinity();
  double seconds_ = 0;
};

}  // namespace

Schema Describe(AutobotConfig& config) {
  const RealRange positive{.low = 0, .open_low = true};
  Schema schema;
  schema.Add("batches", &config.batches, "Adam steps; the paper: 200 (CIFAR-10), 3000 (ImageNet)",
             {.low = 1});
  schema.Add("batch_size", &config.batch_size, "training samples a step", {.low = 1});
  schema.Add("lr", &config.lr, "constant learning rate; the paper: 0.5 or 0.6 (CIFAR-10)",
             positive);
  schema.Add("beta", &config.beta, "weight of the budget loss; 10 on ImageNet", {.low = 0});
  schema.Add("gamma", &config.gamma, "weight of the binarisation loss; 0.6 on ImageNet",
             {.low = 0});
  schema.Add("initial", &config.initial, "gate of every unit at the start",
             RealRange{.low = 0, .high = 1, .open_low = true, .open_high = true});
  schema.Add("label_smoothing", &config.label_smoothing, "0.1 on ImageNet",
             RealRange{.low = 0, .high = 1, .open_high = true});
  schema.Add("snapshot_after", &config.snapshot_after,
             "fraction of the steps after which the best loss is kept", {.low = 0, .high = 1});
  schema.Add("threshold", &config.threshold,
             "best: nearest that holds the budget; last: the one tested last, as released",
             {"best", "last"});
  schema.Add("tolerance", &config.tolerance, "threshold search stops this near the bound (MACs)",
             {.low = 0});
  schema.Add("evaluations", &config.evaluations, "thresholds tried at most", {.low = 1});
  schema.Add("augment", &config.augment, "training augmentation");
  schema.Add("fold_gates", &config.fold_gates,
             "let batch norms apply the gates where that is the same function: faster");
  schema.Add("checkpoint_every", &config.checkpoint_every, "steps between checkpoints", {.low = 1});
  return schema;
}

SearchResult Autobot::Run(const Environment& environment, SearchContext& context) const {
  AutobotRun run(config_, environment, context);
  run.Train();
  return run.Result();
}

ESPALIER_REGISTER_STRATEGY(Autobot, AutobotConfig,
                           {.name = "autobot",
                            .summary = "one trainable gate per unit, weights frozen, one pass",
                            .source = "arXiv:2111.09635",
                            .facts = {kNeedsData, kNeedsGradients, "deterministic"}})

}  // namespace espalier

#include "env/train/trainer.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "env/base/clock.h"
#include "env/base/error.h"
#include "env/base/files.h"
#include "env/base/interrupt.h"
#include "env/base/log.h"
#include "env/graph/batch_size.h"
#include "env/train/checkpoint.h"
#include "env/train/schedule.h"
#include "env/train/training_step.h"

namespace espalier {
namespace {

/// Everything one call of Train needs, with the loop in pieces.
class Training {
 public:
  Training(const Network& network, const Splits& splits, const Task& task,
           const TrainConfig& config, uint64_t seed, const std::filesystem::path& folder,
           WeightPenalty* penalty)
      : network_(network),
        splits_(splits),
        config_(config),
        penalty_(penalty),
        seed_(seed),
        path_(folder.empty() ? folder : folder / "checkpoint.safetensors"),
        store_(TrainingCopy(network.store, config.channels_last)),
        step_(network, store_, task, config_, penalty),
        loader_(splits.train(), {.batch_size = config.batch_size,
                                 .channels_last = config.channels_last,
                                 .seed = seed}) {
    steps_per_epoch_ = loader_.batches_per_epoch();
    if (config.limit_batches > 0)
      steps_per_epoch_ = std::min(steps_per_epoch_, config.limit_batches);
    losses_ = at::zeros({steps_per_epoch_}, at::device(step_.device()).dtype(at::kFloat));
    figures_ = at::zeros({steps_per_epoch_}, at::device(step_.device()).dtype(at::kDouble));
    if (config.ema_decay > 0) {
      ema_store_ = store_.Clone();
      for (const std::string& name : ema_store_->CanonicalNames())  // Clone keeps formats
        ESPALIER_CHECK(ema_store_->Get(name).strides() == store_.Get(name).strides(), name);
    }
    if (!path_.empty()) identity_ = IdentifyRun(network, splits, task, config, seed);
    if (penalty_ == nullptr) return;
    penalty_->Attach(store_);
    penalties_ = at::zeros_like(losses_);
    identity_["penalty"] = Sha256Hex(penalty_->Identity());
  }

  TrainResult Run(const std::function<void(const EpochRecord&)>& on_epoch) {
    if (!path_.empty() && std::filesystem::exists(path_))
      position_ = ReadCheckpoint(path_, identity_, AllTensors());
    else
      position_.bfloat16 = ChooseBfloat16();
    step_.optimizer().set_steps(position_.steps);
    step_.set_bfloat16(position_.bfloat16);
    store_.SetRequiresGrad(true);
    Progress progress(Str("train ", network_.name), config_.epochs * steps_per_epoch_);
    while (position_.epoch < config_.epochs) {
      RunEpoch(progress);
      if (on_epoch) on_epoch(position_.history.back());
      if (InterruptRequested() && position_.epoch < config_.epochs) Stop();
    }
    return {position_.history};
  }

  const ParameterStore& trained() const { return ema_store_ ? *ema_store_ : store_; }

 private:
  bool ChooseBfloat16() {
    if (config_.precision != "auto") return config_.precision == "bf16";
    constexpr int64_t kFewSteps = 50;  // measuring takes 8 steps
    if (config_.epochs * steps_per_epoch_ < kFewSteps) return false;
    try {
      const bool gain = step_.MeasureBfloat16(loader_.Get(0, 0));
      LogInfo("train ", network_.name, ": precision ", gain ? "bf16" : "fp32", " (measured)");
      return gain;
    } catch (const Error& error) {  // an operator without bfloat16 kernels
      LogInfo("train ", network_.name, ": precision fp32, bf16 fails: ", error.message());
      return false;
    }
  }

  void RunEpoch(Progress& progress) {
    const Timer timer;
    const double seconds_before = position_.seconds;
    double lr = 0;
    for (int64_t batch = position_.batch; batch < steps_per_epoch_; ++batch) {
      lr = RunStep(batch);
      position_.batch = batch + 1;
      position_.seconds = seconds_before + timer.Seconds();
      progress.Update(position_.steps, Str("epoch ", position_.epoch + 1, "/", config_.epochs));
      if (InterruptRequested() && position_.batch < steps_per_epoch_) Stop();
    }
    CheckFinite(steps_per_epoch_);
    EpochRecord record;
    record.epoch = position_.epoch + 1;
    record.lr = lr;
    record.train_loss = losses_.to(at::kDouble).mean().item<double>();
    record.train_metric = figures_.mean().item<double>();
    record.validation_metric = ValidationMetric();
    record.seconds = seconds_before + timer.Seconds();
    position_.history.push_back(record);
    position_.epoch = record.epoch;
    position_.batch = 0;
    position_.seconds = 0;
    losses_.zero_();
    figures_.zero_();
    if (penalty_) {
      penalty_->EndEpoch(record.epoch);
      step_.Forget();
    }
    Save();
  }

  double RunStep(int64_t batch) {
    const double lr = LearningRate(config_, position_.steps, steps_per_epoch_);
    const auto result =
        step_.Run(loader_.Get(position_.epoch, batch), lr,
                  StreamSeed(seed_, static_cast<uint64_t>(position_.steps), "dropout"));
    losses_[batch].copy_(result.loss);
    figures_[batch].copy_(result.metric);
    if (penalty_) penalties_[batch].copy_(result.penalty);
    if (step_.device().is_cpu()) CheckFinite(batch + 1);  // elsewhere this waits for the device
    ++position_.steps;
    if (ema_store_) UpdateEma();
    return lr;
  }

  void CheckFinite(int64_t batches) const {
    if (penalty_) CheckFinite(penalties_.narrow(0, 0, batches), penalty_->Name(), "weaken it");
    CheckFinite(losses_.narrow(0, 0, batches), "the loss",
                "lower train.lr, or lengthen train.warmup_epochs");
  }

  void CheckFinite(const Tensor& values, const std::string& what, const char* hint) const {
    const Tensor bad = values.isfinite().logical_not();
    if (!bad.any().item<bool>()) return;
    throw Error(ErrorKind::kTrials,
                Str("training of '", network_.name, "': ", what, " is not finite in epoch ",
                    position_.epoch + 1, ", batch ", bad.nonzero()[0].item<int64_t>() + 1),
                hint);
  }

  void UpdateEma() {
    const at::NoGradGuard no_grad;
    const auto step = static_cast<double>(position_.steps);
    // Early steps weigh more, so that the seeded weights are forgotten.
    const double decay = std::min(config_.ema_decay, (1 + step) / (10 + step));
    for (const auto& [name, tensor] : FloatTensors(store_, /*parameters_only=*/false))
      Tensor(ema_store_->Get(name)).lerp_(tensor, 1 - decay);
  }

  /// In float32, of the weights that would be the result; 0 without validation samples.
  double ValidationMetric() {
    const at::NoGradGuard no_grad;
    const Dataset& samples = splits_.validation();
    if (samples.count() == 0) return 0;
    constexpr int64_t kMost = 250;
    const int64_t batch = FittingBatch(network_, kMost);
    const Binding binding = step_.executor().Bind(trained());
    Tensor sums;  // [K]
    for (int64_t start = 0; start < samples.count(); start += batch) {
      const int64_t size = std::min(batch, samples.count() - start);
      const Tensor sum =
          step_.Statistics(binding, samples.Range(start, size, config_.channels_last));
      sums = sums.defined() ? sums + sum : sum;
    }
    return step_.metric().Figure(sums).item<double>();
  }

  /// All that shapes the next step, by checkpoint name.
  std::vector<NamedTensor> AllTensors() const {
    std::vector<NamedTensor> tensors = step_.optimizer().State();
    for (const std::string& name : store_.CanonicalNames())
      tensors.emplace_back("weights/" + name, store_.Get(name));
    if (ema_store_)
      for (const auto& [name, tensor] : FloatTensors(*ema_store_, /*parameters_only=*/false))
        tensors.emplace_back("ema/" + name, tensor);
    tensors.emplace_back("losses", losses_);
    tensors.emplace_back("figures", figures_);
    if (penalty_) {
      tensors.emplace_back("penalties", penalties_);
      for (const auto& [name, tensor] : penalty_->State())
        tensors.emplace_back("penalty/" + name, tensor);
    }
    return tensors;
  }

  void Save() const {
    if (!path_.empty()) WriteCheckpoint(path_, identity_, position_, AllTensors());
  }

  [[noreturn]] void Stop() const {
    Save();
    throw Error(ErrorKind::kInterrupted,
                Str("training of '", network_.name, "' stopped in epoch ", position_.epoch + 1,
                    " after batch ", position_.batch, " of ", steps_per_epoch_,
                    path_.empty() ? "" : Str("; checkpoint: ", path_.string())),
                path_.empty() ? "" : "the same command continues");
  }

  const Network& network_;
  const Splits& splits_;
  const TrainConfig config_;
  WeightPenalty* const penalty_;  // may be null
  const uint64_t seed_;
  const std::filesystem::path path_;  // of the checkpoint; empty = none
  ParameterStore store_;              // tensors that are only changed in place
  TrainingStep step_;
  Loader loader_;
  std::optional<ParameterStore> ema_store_;
  RunIdentity identity_;
  TrainPosition position_;
  int64_t steps_per_epoch_ = 0;
  Tensor losses_, figures_, penalties_;  // [steps_per_epoch], of the unfinished epoch
};

}  // namespace

TrainResult Train(Network& network, const Splits& splits, const Task& task,
                  const TrainConfig& config, uint64_t seed, const std::filesystem::path& folder,
                  const std::function<void(const EpochRecord&)>& on_epoch, WeightPenalty* penalty) {
  if (config.nesterov && config.optimizer == "sgd" && config.momentum <= 0)
    throw Error(ErrorKind::kConfig, "train.nesterov needs train.momentum > 0");
  Training training(network, splits, task, config, seed, folder, penalty);
  TrainResult result = training.Run(on_epoch);
  SetTrained(network, training.trained());
  return result;
}

}  // namespace espalier

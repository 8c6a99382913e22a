#include "env/train/training_step.h"

#include <ATen/ATen.h>

#include <mutex>
#include <utility>

#include "env/base/error.h"
#include "env/base/log.h"
#include "env/graph/generator_scope.h"
#include "env/graph/memory_format.h"
#include "env/train/precision.h"

namespace espalier {
namespace {

at::Device DeviceOfParameters(const Network& network, const ParameterStore& weights) {
  const auto parameters = FloatTensors(weights, /*parameters_only=*/true);
  if (parameters.empty())
    throw Error(ErrorKind::kModel, Str("network '", network.name, "' has no parameters to train"));
  return parameters.front().second.device();
}

std::vector<std::vector<int64_t>> SizesOf(const Batch& batch) {
  std::vector<std::vector<int64_t>> sizes;
  for (const auto* tensors : {&batch.inputs, &batch.targets})
    for (const Tensor& tensor : *tensors) sizes.push_back(tensor.sizes().vec());
  return sizes;
}

}  // namespace

ParameterStore TrainingCopy(const ParameterStore& store, bool channels_last) {
  ParameterStore copy = store.Clone();
  for (const std::string& name : copy.CanonicalNames()) {
    const Tensor& tensor = copy.Get(name);
    copy.Set(name, channels_last && tensor.dim() == 4 ? ChannelsLast(tensor) : tensor.contiguous());
  }
  return copy;
}

std::vector<NamedTensor> FloatTensors(const ParameterStore& store, bool parameters_only) {
  std::vector<NamedTensor> tensors;
  for (const std::string& name : store.CanonicalNames()) {
    const StoreKind kind = store.Kind(name);
    if (kind == StoreKind::kParameter || (kind == StoreKind::kBuffer && !parameters_only))
      if (store.Get(name).is_floating_point()) tensors.emplace_back(name, store.Get(name));
  }
  return tensors;
}

TrainingStep::TrainingStep(const Network& network, const ParameterStore& weights, const Task& task,
                           const TrainConfig& config, WeightPenalty* penalty)
    : network_(network),
      task_(task),
      config_(config),
      objective_(config.loss.empty() ? task.loss : config.loss,
                 {.label_smoothing = config.label_smoothing,
                  .temperature = task.temperature,
                  .class_axis = task.metric_options.class_axis}),
      metric_(task.MakeMetric()),
      penalty_(penalty),
      executor_(network.graph),
      binding_(executor_.Bind(weights)),
      weights_([&] {
        std::vector<Tensor> tensors;
        for (const std::string& name : weights.CanonicalNames())
          tensors.push_back(weights.Get(name));
        return tensors;
      }()),
      optimizer_(config, FloatTensors(weights, /*parameters_only=*/true)),
      device_(DeviceOfParameters(network, weights)),
      uncut_(task, objective_.Has(kNeedsUncut) || task.compares(), device_),
      mode_(config.mode == "eval" ? Mode::kEval : Mode::kTrain),
      stochastic_(mode_ == Mode::kTrain && UsesDefaultGenerator(network.graph)),
      recordable_(config.recorded) {}

Tensor TrainingStep::Loss(const Binding& binding, const Batch& batch, bool bfloat16,
                          Tensor* metric) const {
  const AutocastScope autocast(bfloat16, device_.type());
  Outcome outcome{batch, {}};
  outcome.features.resize(objective_.Has(kNeedsFeatures) ? task_.features.size() : 0);
  std::vector<Tap> taps, uncut_taps;
  for (size_t i = 0; i < outcome.features.size(); ++i) {
    ValuePair& pair = outcome.features[i];
    const Feature& feature = task_.features[i];
    taps.push_back({feature.value, [&](const Tensor& t) { pair.value = t; }});
    uncut_taps.push_back(
        {feature.value, [&](const Tensor& t) { pair.wanted = feature.Matching(t); }});
  }
  outcome.outputs = executor_.Run(binding, batch.inputs, {.mode = mode_, .taps = taps});
  outcome.uncut = uncut_.Run(batch.inputs, uncut_taps);
  if (metric != nullptr) {
    const at::NoGradGuard no_grad;
    *metric = metric_->Figure(metric_->Statistics(outcome, task_.metric_options).sum(0));
  }
  return objective_.Mean(outcome);
}

std::vector<Tensor> TrainingStep::Step() {
  Tensor metric;
  Tensor loss = Loss(binding_, batch_, bfloat16_, &metric);
  std::vector<Tensor> figures = {loss.detach(), metric};
  if (penalty_ != nullptr) {
    const Tensor penalty = penalty_->Value();
    figures.push_back(penalty.detach());
    loss = loss + penalty;
  }
  loss.backward();
  optimizer_.Update();
  return figures;
}

/// The calls that come before a recording change what every step does: it is put back.
void TrainingStep::MakeRecording(const Batch& batch) {
  const auto cloned = [](const std::vector<Tensor>& tensors) {
    std::vector<Tensor> clones;
    for (const Tensor& tensor : tensors) clones.push_back(tensor.detach().clone());
    return clones;
  };
  batch_ = {cloned(batch.inputs), cloned(batch.targets)};
  std::vector<Tensor> state = weights_;
  for (const auto& [name, tensor] : optimizer_.State()) state.push_back(tensor);
  const std::vector<Tensor> before = cloned(state);
  const auto put_back = [&] {
    const at::NoGradGuard no_grad;
    for (size_t i = 0; i < state.size(); ++i) state[i].copy_(before[i]);
    for (const Tensor& tensor : weights_) tensor.mutable_grad() = Tensor();
  };
  const auto step = [this] { return Step(); };
  try {
    recording_ = Record(recordable_ ? device_ : at::kCPU, step);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kDevice) throw;
    LogInfo("train ", network_.name, ": steps are not recorded: ", error.message());
    recordable_ = false;
  }
  put_back();
  if (!recording_) recording_ = Record(at::kCPU, step);  // calls it
}

TrainingStep::Result TrainingStep::Run(const Batch& given, double lr, uint64_t seed) {
  const at::AutoGradMode with_grad(true);
  const Batch batch = given.To(device_);
  optimizer_.Prepare(lr);
  if (!recording_ || SizesOf(batch) != SizesOf(batch_)) {
    const GeneratorScope generator(stochastic_, device_, seed);
    MakeRecording(batch);
  } else {
    for (size_t i = 0; i < batch.inputs.size(); ++i) batch_.inputs[i].copy_(batch.inputs[i]);
    for (size_t i = 0; i < batch.targets.size(); ++i) batch_.targets[i].copy_(batch.targets[i]);
  }
  const GeneratorScope generator(stochastic_, device_, seed);
  recording_->Replay();
  const std::vector<Tensor>& figures = recording_->results();
  return {figures[0], figures[1], figures.size() > 2 ? figures[2] : Tensor()};
}

bool TrainingStep::MeasureBfloat16(const Batch& given) const {
  const at::AutoGradMode with_grad(true);
  const Batch batch = given.To(device_);
  ParameterStore scratch = TrainingCopy(network_.store, config_.channels_last);
  scratch.SetRequiresGrad(true);
  const Binding binding = executor_.Bind(scratch);
  return MeasureBfloat16Gain(device_.type(), [&](bool bfloat16) {
    const Tensor loss = Loss(binding, batch, bfloat16, nullptr);
    loss.backward();
    loss.item<float>();  // waits for the device
  });
}

Tensor TrainingStep::Statistics(const Binding& binding, const Batch& given) const {
  const at::NoGradGuard no_grad;
  Outcome outcome{given.To(device_), {}};
  outcome.outputs = executor_.Run(binding, outcome.batch.inputs);
  outcome.uncut = uncut_.Run(outcome.batch.inputs);
  return metric_->Statistics(outcome, task_.metric_options).sum(0);
}

void SetTrained(Network& network, const ParameterStore& weights) {
  const ParameterStore trained = weights.Clone();
  for (const std::string& name : trained.CanonicalNames())
    network.store.Set(name, trained.Get(name).contiguous());
}

void TrainBriefly(Network& network, Loader& loader, const Task& task, const TrainConfig& config,
                  int64_t steps, uint64_t seed) {
  static std::mutex drawing;  // the process has one generator
  std::unique_lock turn(drawing, std::defer_lock);
  if (UsesDefaultGenerator(network.graph)) turn.lock();
  ParameterStore weights = TrainingCopy(network.store, config.channels_last);
  weights.SetRequiresGrad(true);
  TrainingStep step(network, weights, task, config);
  for (int64_t i = 0; i < steps; ++i) {
    const auto result =
        step.Run(loader.Get(i), config.lr, StreamSeed(seed, static_cast<uint64_t>(i), "dropout"));
    if (!result.loss.isfinite().item<bool>())
      throw Error(ErrorKind::kTrials,
                  Str("fine-tuning '", network.name, "': the loss is not finite in step ", i + 1));
  }
  SetTrained(network, weights);
}

}  // namespace espalier

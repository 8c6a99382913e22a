#include "env/task/task.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "env/base/error.h"
#include "env/graph/memory_format.h"

namespace espalier {
namespace {

bool LooksLikeClasses(const Tensor& output) {
  return output.is_floating_point() && (output.dim() == 2 || output.dim() == 3) &&
         output.size(-1) > 1;
}

/// Two samples through the uncut network, or as many as it insists on.
Outcome Try(const Dataset& samples, const Network& uncut) {
  const at::NoGradGuard no_grad;
  const auto& inputs = uncut.graph.inputs;
  const bool fixed = !inputs.empty() && !inputs.front().dynamic_batch;
  const int64_t size = fixed ? inputs.front().sizes.front() : 2;
  Outcome outcome{samples.Range(0, std::min(size, samples.count())), {}};
  const Executor executor(uncut.graph);
  outcome.outputs = executor.Run(executor.Bind(uncut.store.To(at::kCPU)), outcome.batch.inputs);
  outcome.uncut = outcome.outputs;
  return outcome;
}

/// On the device, convolution weights channels_last.
ParameterStore Moved(const ParameterStore& store, at::Device device) {
  ParameterStore moved = store.To(device);
  for (const std::string& name : moved.CanonicalNames()) {
    const Tensor tensor = moved.Get(name).detach();
    moved.Set(name, ChannelsLast(tensor));
  }
  return moved;
}

void CheckClasses(const Dataset& samples, int64_t classes) {
  const Tensor& targets = samples.targets.front();
  const Tensor bad = targets.ne(-100).logical_and(targets.lt(0).logical_or(targets.ge(classes)));
  if (!bad.any().item<bool>()) return;
  throw Error(ErrorKind::kData,
              Str("target ", targets.masked_select(bad)[0].item<int64_t>(), " of sample ",
                  bad.nonzero()[0][0].item<int64_t>(), ": the network tells ", classes,
                  " classes apart, 0 to ", classes - 1, " (-100 = does not count)"));
}

}  // namespace

Schema Describe(TaskConfig& config) {
  std::vector<std::string> metrics = Registry<Metric>::Global().Names();
  metrics.insert(metrics.begin(), "");
  return Schema()
      .Add("loss", &config.loss,
           "made small by search and training: a loss (espalier list losses) or a sum such as "
           "\"cross_entropy + 0.5 kl\"; empty = cross_entropy or mse with labels, kl or "
           "mse_outputs without")
      .Add("metric", &config.metric,
           "what networks are compared by; empty = accuracy or mse with labels, agreement or "
           "output_error without",
           metrics)
      .Add("temperature", &config.temperature, "of the loss kl",
           RealRange{.low = 0, .open_low = true})
      .Add("top_k", &config.top_k, "of the metric top_k", {.low = 1})
      .Add("class_axis", &config.class_axis,
           "axis of the first output with the classes, for comparisons with the uncut network; 0 = "
           "1 (behind the batch), and of three axes the last ([batch, token, word]) unless labels "
           "say otherwise",
           {.low = 0});
}

Objective Task::MakeObjective(double label_smoothing) const {
  return Objective(loss, {.label_smoothing = label_smoothing,
                          .temperature = temperature,
                          .class_axis = metric_options.class_axis});
}

Objective Task::MakeSensitivity() const {
  Objective objective = MakeObjective();
  if (!objective.OnlyCompares()) return objective;
  return Objective(sensitivity, {.class_axis = metric_options.class_axis});
}

std::unique_ptr<const Metric> Task::MakeMetric() const {
  return Registry<Metric>::Global().Create("metric", metric);
}

bool Task::compares() const {
  return HasFact(metric, kNeedsUncut) || MakeObjective().Has(kNeedsUncut);
}

Task MakeTask(const TaskConfig& config, const Dataset& samples, const Network& uncut) {
  Task task;
  task.temperature = config.temperature;
  task.metric_options = {.top_k = config.top_k, .class_axis = config.class_axis};
  const Outcome outcome = Try(samples, uncut);
  const bool classes = samples.labelled()
                           ? at::isIntegralType(samples.targets.front().scalar_type(), false)
                           : LooksLikeClasses(outcome.outputs.front());
  const auto settled = [&](const std::string& given, const char* with_labels, const char* without) {
    return !given.empty() ? given : samples.labelled() ? with_labels : without;
  };
  task.loss =
      settled(config.loss, classes ? "cross_entropy" : "mse", classes ? "kl" : "mse_outputs");
  task.metric =
      settled(config.metric, classes ? "accuracy" : "mse", classes ? "agreement" : "output_error");
  task.sensitivity = LooksLikeClasses(outcome.outputs.front()) ? "pseudo_label" : "disturbed_mse";
  const Objective objective = task.MakeObjective();
  objective.Mean(outcome);
  task.MakeMetric()->Statistics(outcome, task.metric_options);
  if (objective.Has(kNeedsClasses) || HasFact(task.metric, kNeedsClasses))
    CheckClasses(samples, AgainstTargets(outcome, task.metric).logits.size(1));
  task.uncut = std::make_shared<const Network>(uncut);
  return task;
}

UncutOutputs::Bound::Bound(const Network& given, at::Device device)
    : network{given.name, given.graph, Moved(given.store, device), {}},
      executor(network.graph),
      binding(executor.Bind(network.store)) {}

UncutOutputs::UncutOutputs(const Task& task, bool needed, at::Device device) {
  if (!needed) return;
  if (task.uncut == nullptr)
    throw Error(ErrorKind::kConfig, Str("loss \"", task.loss, "\", metric \"", task.metric,
                                        "\": there is no uncut network to compare with here"));
  bound_ = std::make_unique<const Bound>(*task.uncut, device);
}

std::vector<Tensor> UncutOutputs::Run(const std::vector<Tensor>& inputs,
                                      std::span<const Tap> taps) const {
  if (bound_ == nullptr) return {};
  const at::NoGradGuard no_grad;
  return bound_->executor.Run(bound_->binding, inputs, {.taps = taps});
}

}  // namespace espalier

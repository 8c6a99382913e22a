#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "env/base/config.h"
#include "env/data/dataset.h"
#include "env/graph/executor.h"
#include "env/graph/network.h"
#include "env/task/feature.h"
#include "env/task/loss.h"
#include "env/task/metric.h"

namespace espalier {

/// [task]: empty names are settled by MakeTask.
struct TaskConfig {
  std::string loss{};      ///< what search and training make small; a sum may be given
  std::string metric{};    ///< what candidates and results are compared by
  double temperature = 1;  ///< of the loss kl
  int64_t top_k = 5;       ///< of the metric top_k
  int64_t class_axis = 0;  ///< of the first output, for comparisons with the uncut network
};
Schema Describe(TaskConfig& config);

/// How a network's outputs are judged: by default as classification. A value type.
struct Task {
  std::string loss = "cross_entropy";
  std::string metric = "accuracy";
  double temperature = 1;
  MetricOptions metric_options{};
  std::string sensitivity = "pseudo_label";  ///< or disturbed_mse, for outputs that are no classes
  /// What label-free losses and metrics compare with; null when none is asked for.
  std::shared_ptr<const Network> uncut{};
  std::vector<Feature> features{};  ///< what losses compare inside both networks

  Objective MakeObjective(double label_smoothing = 0) const;
  /// What gradient criteria take the gradient of, at the uncut network: the loss, or, where that
  /// only compares with the uncut network and has no gradient there, `sensitivity`.
  Objective MakeSensitivity() const;
  std::unique_ptr<const Metric> MakeMetric() const;  ///< Errors: kConfig for an unknown name
  bool compares() const;  ///< its loss or its metric compares with the uncut network
};

/// Settles a task for a network and its data. With labels: cross_entropy and accuracy where the
/// targets are classes, else mse; without: kl and agreement where the first output can be scores of
/// classes ([batch, classes] or [batch, token, word]), else mse_outputs and output_error.
///
/// Errors   kConfig, kData, kModel, before anything long is started: unknown names, targets that
///          are missing or do not fit the outputs, classes out of range.
/// Cost     one forward of two samples.
Task MakeTask(const TaskConfig& config, const Dataset& samples, const Network& uncut);

/// The uncut network's outputs for batches, where something compares with them.
class UncutOutputs {
 public:
  /// needed: whether a loss or metric compares at all. Errors: kConfig when the task has no
  /// network.
  UncutOutputs(const Task& task, bool needed, at::Device device);
  /// No gradients. Empty when nothing is needed.
  std::vector<Tensor> Run(const std::vector<Tensor>& inputs, std::span<const Tap> taps = {}) const;

 private:
  struct Bound {
    Bound(const Network& network, at::Device device);
    const Network network;
    const Executor executor;  // refers to network.graph
    const Binding binding;
  };
  std::unique_ptr<const Bound> bound_;
};

}  // namespace espalier

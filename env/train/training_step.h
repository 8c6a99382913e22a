#pragma once

#include <memory>
#include <vector>

#include "env/device/device_backend.h"
#include "env/graph/executor.h"
#include "env/task/task.h"
#include "env/train/optimizer.h"
#include "env/train/weight_penalty.h"

namespace espalier {

/// Own copies of a store's tensors for training, convolution weights in the wanted memory format.
ParameterStore TrainingCopy(const ParameterStore& store, bool channels_last);

/// Tensors of floating point: parameters, with buffers or without.
std::vector<NamedTensor> FloatTensors(const ParameterStore& store, bool parameters_only);

/// One optimiser step of a training: forward, loss, backward, update, as one recording (Record) for
/// all batches of a shape. On a device that records, a step is then one launch; where it cannot be
/// recorded (an operator that waits for the device), operators are launched one by one.
///
/// Random   dropout from the seed a step is given.
/// Memory   while a recording is made, a second copy of weights and optimiser state.
/// Threads  none; several steps of different networks may run side by side.
class TrainingStep {
 public:
  /// On the weights' device; [] each, of the batch.
  struct Result {
    Tensor loss, metric;
    Tensor penalty;  ///< undefined without one
  };
  /// What is borrowed must outlive this. weights are changed in place; `penalty` may be null and is
  /// attached already. Errors: kModel without parameters; kConfig of the loss.
  TrainingStep(const Network& network, const ParameterStore& weights, const Task& task,
               const TrainConfig& config, WeightPenalty* penalty = nullptr);

  /// Valid until the next call.
  Result Run(const Batch& batch, double lr, uint64_t seed);
  /// Recordings are made again: what they took for constant has changed.
  void Forget() { recording_.reset(); }

  /// Whether forward and backward in bfloat16 were measured faster, on a batch and copied weights.
  bool MeasureBfloat16(const Batch& batch) const;
  void set_bfloat16(bool on) { bfloat16_ = on; }

  /// Sums of the metric's statistics, [K], of the network with other weights, without gradients.
  Tensor Statistics(const Binding& binding, const Batch& batch) const;
  const Metric& metric() const { return *metric_; }
  const Executor& executor() const { return executor_; }
  Optimizer& optimizer() { return optimizer_; }
  const Optimizer& optimizer() const { return optimizer_; }
  at::Device device() const { return device_; }

 private:
  Tensor Loss(const Binding& binding, const Batch& batch, bool bfloat16, Tensor* metric) const;
  std::vector<Tensor> Step();
  void MakeRecording(const Batch& batch);

  const Network& network_;
  const Task& task_;
  const TrainConfig& config_;
  const Objective objective_;
  const std::unique_ptr<const Metric> metric_;
  WeightPenalty* const penalty_;
  const Executor executor_;
  const Binding binding_;              // handles of tensors that are only changed in place
  const std::vector<Tensor> weights_;  // all of them, buffers too
  Optimizer optimizer_;
  const at::Device device_;
  const UncutOutputs uncut_;
  const Mode mode_;
  const bool stochastic_;
  bool bfloat16_ = false;
  bool recordable_;
  Batch batch_;  // what the recording reads
  std::unique_ptr<Recording> recording_;
};

/// Gives a network fresh tensors with trained values, contiguous and detached; other copies of the
/// network keep theirs.
void SetTrained(Network& network, const ParameterStore& weights);

/// A short fine-tune: `steps` optimiser steps at config.lr on a loader's first batches, in float32.
/// The store gets fresh tensors, as after Train. Nothing is printed or kept.
///
/// Errors   kTrials when the loss is not finite; those of TrainingStep.
/// Random   dropout from (seed, step).
/// Threads  may be called by several; networks that draw take turns.
void TrainBriefly(Network& network, Loader& loader, const Task& task, const TrainConfig& config,
                  int64_t steps, uint64_t seed);

}  // namespace espalier

#include "env/eval/task_samples.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <limits>
#include <map>

#include "env/base/error.h"
#include "env/graph/batch_size.h"

namespace espalier {
namespace {

constexpr int64_t kSeen = 250;  // samples that show where the uncut network is

std::vector<Tensor> Part(const std::vector<Tensor>& tensors, int64_t first, int64_t count) {
  std::vector<Tensor> part;
  for (const Tensor& tensor : tensors) part.push_back(tensor.narrow(0, first, count));
  return part;
}

/// [N] indices: classes in turns, or one fixed shuffle.
Tensor FairOrder(const Dataset& data) {
  const bool classes = data.labelled() && data.targets.front().dim() == 1 &&
                       data.targets.front().scalar_type() == at::kLong;
  if (!classes)
    return at::tensor(Rng(0, 0, "comparison order").Permutation(data.count()), at::kLong);
  const Tensor labels = data.targets.front().cpu().contiguous();
  const auto* label = labels.const_data_ptr<int64_t>();
  std::map<int64_t, int64_t> seen;
  std::vector<std::pair<int64_t, int64_t>> turns;  // how many of its class came before, sample
  for (int64_t i = 0; i < data.count(); ++i) turns.emplace_back(seen[label[i]]++, i);
  std::stable_sort(turns.begin(), turns.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<int64_t> order;
  for (const auto& [turn, sample] : turns) order.push_back(sample);
  return at::tensor(order, at::kLong);
}

size_t PreparedBytes(const Dataset& data) {
  size_t bytes = 0;
  for (const Tensor& tensor : data.inputs)
    bytes += tensor.nbytes() * (tensor.scalar_type() == at::kByte ? sizeof(float) : 1);
  return bytes;
}

}  // namespace

TaskSamples::TaskSamples(const Dataset& data, const Task& task, const Network& uncut, int64_t limit,
                         int64_t skip, at::Device device, size_t most)
    : task_(task),
      device_(device),
      metric_(task.MakeMetric()),
      lower_is_better_(HasFact(task.metric, kLowerIsBetter)),
      uncut_(task, HasFact(task.metric, kNeedsUncut), device),
      most_(most),
      stored_(data) {
  const at::NoGradGuard no_grad;
  const int64_t left = data.count() - skip;
  if (left <= 0) throw Error(ErrorKind::kConfig, "there are no samples to compare on");
  const Tensor order = FairOrder(data).narrow(0, skip, limit > 0 ? std::min(limit, left) : left);
  stored_ = stored_.Chosen(order).To(device_);
  if (PreparedBytes(stored_) <= most_)
    inputs_ = stored_.Range(0, samples(), /*channels_last=*/true).inputs;
  FindTangent(uncut);
}

void TaskSamples::FindTangent(const Network& uncut) {
  const Executor executor(uncut.graph);
  const Binding binding = executor.Bind(uncut.store.To(device_));
  std::vector<Tensor> statistics;
  std::vector<std::vector<Tensor>> outputs;  // [batch][output]
  size_t bytes = 0;
  const bool compares = HasFact(task_.metric, kNeedsUncut);
  const int64_t seen = compares ? samples() : std::min(kSeen, samples());
  const int64_t batch = FittingBatch(uncut, kSeen);
  for (int64_t first = 0; first < seen; first += batch) {
    const int64_t count = std::min(batch, seen - first);
    Outcome outcome{{Inputs(first, count), Part(stored_.targets, first, count)}, {}};
    outcome.outputs = executor.Run(binding, outcome.batch.inputs);
    if (compares) {
      outcome.uncut = uncut_.Run(outcome.batch.inputs);
      for (const Tensor& output : outcome.uncut) bytes += output.nbytes();
      if (bytes > most_)
        outputs.clear();
      else
        outputs.push_back(outcome.uncut);
    }
    statistics.push_back(metric_->Statistics(outcome, task_.metric_options));
  }
  tangent_ = TangentAt(*metric_, at::cat(statistics).mean(0));
  if (outputs.empty() || bytes > most_) return;
  for (size_t i = 0; i < outputs.front().size(); ++i) {
    std::vector<Tensor> parts;
    for (const auto& some : outputs) parts.push_back(some[i]);
    uncut_outputs_.push_back(at::cat(parts));
  }
}

std::vector<Tensor> TaskSamples::Inputs(int64_t first, int64_t count) const {
  return inputs_.empty() ? stored_.Range(first, count, /*channels_last=*/true).inputs
                         : Part(inputs_, first, count);
}

Outcome TaskSamples::OutcomeOf(std::vector<Tensor> outputs, int64_t first, int64_t count) const {
  Outcome outcome{{Inputs(first, count), Part(stored_.targets, first, count)}, {}};
  for (const Tensor& output : outputs) outcome.outputs.push_back(output.to(device_));
  outcome.uncut = uncut_outputs_.empty() ? uncut_.Run(outcome.batch.inputs)
                                         : Part(uncut_outputs_, first, count);
  return outcome;
}

Tensor TaskSamples::PerSample(const std::vector<Tensor>& outputs, int64_t first,
                              int64_t count) const {
  const Outcome outcome = OutcomeOf(outputs, first, count);
  const Tensor statistics = metric_->Statistics(outcome, task_.metric_options);
  const Tensor figures = tangent_.Of(statistics);
  Tensor values = (lower_is_better_ ? figures.neg() : figures).to(at::kFloat);
  // argmax has an answer even where a logit is no number: that candidate must not count as running.
  for (const Tensor& output : outcome.outputs) {
    if (!output.is_floating_point()) continue;
    const Tensor finite = output.to(at::kFloat).reshape({count, -1}).sum(1).isfinite();
    values = values.masked_fill(finite.logical_not(), std::numeric_limits<double>::quiet_NaN());
  }
  return values;
}

}  // namespace espalier

#pragma once

#include <memory>
#include <vector>

#include "env/data/dataset.h"
#include "env/eval/candidate_evaluator.h"
#include "env/task/task.h"

namespace espalier {

/// What each sample of a data set contributes to the task's metric, larger = better (the sign is
/// turned where lower is better): right and wrong for accuracy; in general to first order from
/// where the uncut network is (found on 250 samples, on all where the metric compares with it), so
/// that the mean over the samples is the figure, or near it.
///
/// Order    classes take turns, so that a few hundred samples stand for all; samples that have no
///          one class come in one fixed shuffle.
/// Errors   as MakeTask; kConfig without samples.
/// Memory   the prepared inputs where they take up to `most` bytes, else as the data set holds them
///          (images as bytes), prepared batch by batch; outputs of the uncut network up to `most`
///          where the metric compares with them, else they are computed again for every candidate.
/// Cost     making one: a forward of the uncut network over these samples.
class TaskSamples final : public ComparisonSet {
 public:
  /// limit: so many samples in that order, 0 = all; skip: after leaving out so many. uncut: the
  /// network that candidates are cut from. device: where the samples stay, and where outputs are
  /// judged.
  TaskSamples(const Dataset& data, const Task& task, const Network& uncut, int64_t limit = 0,
              int64_t skip = 0, at::Device device = at::kCPU, size_t most = size_t{1} << 30);
  int64_t samples() const override { return stored_.count(); }
  std::vector<Tensor> Inputs(int64_t first, int64_t count) const override;
  Tensor PerSample(const std::vector<Tensor>& outputs, int64_t first, int64_t count) const override;

 private:
  Outcome OutcomeOf(std::vector<Tensor> outputs, int64_t first, int64_t count) const;
  void FindTangent(const Network& uncut);

  const Task task_;
  const at::Device device_;
  const std::unique_ptr<const Metric> metric_;
  const bool lower_is_better_;
  const UncutOutputs uncut_;
  const size_t most_;
  Dataset stored_;                     // in the order of comparison
  std::vector<Tensor> inputs_;         // prepared; empty: batch by batch
  std::vector<Tensor> uncut_outputs_;  // [N, ...] each; empty: computed again
  Tangent tangent_;
};

}  // namespace espalier

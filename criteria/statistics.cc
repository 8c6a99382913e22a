#include "criteria/statistics.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "criteria/gradient_collector.h"
#include "criteria/value_collectors.h"
#include "env/base/error.h"
#include "env/graph/executor.h"
#include "env/graph/memory_format.h"

namespace espalier {
namespace {

/// Own tensors on the device; convolution weights channels_last, as they run fastest.
ParameterStore WorkingStore(const ParameterStore& store, at::Device device) {
  ParameterStore own = store.Clone().To(device);
  UseChannelsLast(own);
  return own;
}

Batch OnDevice(const Batch& batch, at::Device device) {
  Batch moved = batch.To(device);
  for (Tensor& input : moved.inputs) input = ChannelsLast(input);
  return moved;
}

double LossValue(const Tensor& loss, int64_t batch) {
  if (loss.numel() != 1)
    throw Error(ErrorKind::kModel,
                Str("calibration: the loss is ", loss.sizes(), ", expected one number"));
  const auto value = loss.item<double>();
  if (!std::isfinite(value))
    throw Error(ErrorKind::kTrials, Str("calibration: the loss of batch ", batch, " is ", value));
  return value;
}

void ThrowIfStopped(const Calibration& calibration) {
  if (calibration.stop && calibration.stop())
    throw Error(ErrorKind::kInterrupted, "stopped while collecting statistics",
                "run the same command again to start them over");
}

}  // namespace

const char* NeedName(Need need) {
  switch (need) {
    case Need::kForward:
      return "forward";
    case Need::kRank:
      return "rank";
    case Need::kGram:
      return "gram";
    case Need::kGramDiagonal:
      return "gram diagonal";
    case Need::kValueGram:
      return "value gram";
    case Need::kGradient:
      return "gradient";
    case Need::kSampleGradient:
      return "sample gradient";
    case Need::kSampleExpansion:
      return "sample expansion";
    case Need::kBlockProducts:
      return "block products";
    case Need::kFisherBlocks:
      return "Fisher blocks";
    case Need::kAblation:
      return "ablation";
  }
  return "?";
}

Tensor CrossEntropy(const std::vector<Tensor>& outputs, const Batch& batch) {
  if (batch.targets.empty())
    throw Error(ErrorKind::kConfig, "calibration: cross-entropy needs labels",
                "give a loss that needs none");
  const Tensor& labels = batch.targets.front();
  Tensor logits = outputs.front();  // [B, classes] or [B, T, classes]
  if (logits.dim() < 2 || logits.numel() / logits.size(-1) != labels.numel())
    throw Error(ErrorKind::kModel, Str("calibration: the network returns ", logits.sizes(),
                                       " for labels ", labels.sizes()));
  logits = logits.reshape({-1, logits.size(-1)}).to(at::kFloat);
  return at::cross_entropy_loss(logits, labels.reshape({-1}));
}

Calibration CalibrationOf(std::vector<Batch> batches) {
  Calibration calibration;
  calibration.batches = static_cast<int64_t>(batches.size());
  calibration.get = [batches = std::move(batches)](int64_t batch) {
    return batches[static_cast<size_t>(batch)];
  };
  return calibration;
}

Statistics CollectStatistics(const Space& space, const ParameterStore& given, const Needs& needs,
                             const Calibration& calibration) {
  Statistics statistics{.collected = needs,
                        .parameters = {},
                        .products = {},
                        .reads = {},
                        .grams = {},
                        .ablation = {}};
  if (needs.empty()) return statistics;
  ESPALIER_CHECK(calibration.batches > 0 && calibration.get && calibration.loss,
                 "statistics need calibration batches and a loss");
  const bool by_batch = needs.contains(Need::kGradient);
  const bool by_sample =
      needs.contains(Need::kSampleGradient) || needs.contains(Need::kSampleExpansion) ||
      needs.contains(Need::kBlockProducts) || needs.contains(Need::kFisherBlocks);
  const bool moments = needs.contains(Need::kGram) || needs.contains(Need::kGramDiagonal);
  if (moments) statistics.collected.insert(Need::kGramDiagonal);
  const bool grams_wanted = moments || needs.contains(Need::kValueGram);
  const bool values = grams_wanted || needs.contains(Need::kForward) || needs.contains(Need::kRank);
  ParameterStore store = WorkingStore(given, calibration.device);
  std::optional<internal::GradientCollector> batches, samples;
  if (by_batch) batches.emplace(space, store, Needs{}, calibration);
  if (by_sample) samples.emplace(space, store, needs, calibration);
  internal::ReadCollector reads(space, needs, calibration);
  std::optional<internal::GramCollector> grams;
  std::vector<Tap> taps;
  reads.AddTaps(taps);
  if (grams_wanted) {
    grams.emplace(space, store, needs, calibration);
    grams->AddTaps(taps);
  }
  const Executor executor(space.network().graph);
  const Binding binding = executor.Bind(store);
  std::optional<internal::SampleGradients> sample_gradients;
  if (samples)
    sample_gradients.emplace(executor, store, samples->leaves(), !calibration.device.is_cpu());
  for (int64_t b = 0; b < calibration.batches && (by_batch || by_sample || values); ++b) {
    ThrowIfStopped(calibration);
    const Batch batch = OnDevice(calibration.get(b), calibration.device);
    if (by_batch || values) {
      const at::AutoGradMode mode(by_batch);
      const auto outputs = executor.Run(binding, batch.inputs, {.taps = taps});
      ++statistics.batches;
      if (by_batch) {
        const Tensor loss = calibration.loss(outputs, batch);
        statistics.loss += LossValue(loss, b);
        loss.backward();
        batches->TakeBatch(internal::TakeGradients(batches->leaves()));
      }
    }
    if (by_sample && statistics.samples < calibration.max_samples) {
      const int64_t count = std::min(batch.size(), calibration.max_samples - statistics.samples);
      sample_gradients->Each(
          binding, batch.Part(0, count),
          [&](const std::vector<Tensor>& outputs, const Batch& sample) {
            const Tensor loss = calibration.loss(outputs, sample);
            LossValue(loss, b);
            return loss;
          },
          [&](const internal::Gradients& gradients) { samples->TakeSamples(gradients); });
      statistics.samples += count;
    }
    if (calibration.progress) calibration.progress(b + 1, calibration.batches);
  }
  if (statistics.batches > 0) statistics.loss /= static_cast<double>(statistics.batches);
  if (batches) batches->FinishBatches(statistics);
  if (samples) samples->FinishSamples(statistics);
  reads.Finish(statistics);
  if (grams) grams->Finish(statistics);
  if (needs.contains(Need::kAblation)) {
    std::vector<std::vector<int64_t>> sets(1);  // none masked, then each unit alone
    for (int64_t unit = 0; unit < space.total_units(); ++unit) sets.push_back({unit});
    const std::vector<double> losses = MaskedLosses(space, given, calibration, sets);
    statistics.ablation = at::tensor(losses, at::kDouble).slice(0, 1) - losses.front();
    if (statistics.batches == 0) statistics.loss = losses.front();
  }
  return statistics;
}

std::vector<double> MaskedLosses(const Space& space, const ParameterStore& given,
                                 const Calibration& calibration,
                                 const std::vector<std::vector<int64_t>>& sets) {
  const at::NoGradGuard no_grad;
  const ParameterStore store = WorkingStore(given, calibration.device);
  const Executor executor(space.network().graph);
  const Binding binding = executor.Bind(store);
  std::vector<Batch> batches;
  std::vector<BatchLoss> objectives;
  for (int64_t b = 0; b < calibration.batches; ++b) {
    batches.push_back(OnDevice(calibration.get(b), calibration.device));
    objectives.push_back(calibration.objective ? calibration.objective(batches.back())
                                               : [&loss = calibration.loss, batch = batches.back()](
                                                     const std::vector<Tensor>& outputs) {
                                                   return loss(outputs, batch);
                                                 });
  }
  std::vector<double> losses;
  for (const std::vector<int64_t>& set : sets) {
    ThrowIfStopped(calibration);
    Tensor factors = at::ones({space.total_units()});
    for (const int64_t unit : set) factors[unit] = 0;
    std::vector<Gate> gates;
    if (!set.empty())
      for (Gate& gate : ReadGates(space, factors))
        if (gate.multiplier.eq(0).any().item<bool>()) {
          gate.multiplier = gate.multiplier.to(calibration.device);
          gates.push_back(std::move(gate));
        }
    double sum = 0;
    for (size_t b = 0; b < batches.size(); ++b)
      sum += LossValue(objectives[b](executor.Run(binding, batches[b].inputs, {.gates = gates})),
                       static_cast<int64_t>(b));
    losses.push_back(sum / static_cast<double>(batches.size()));
    if (calibration.progress)
      calibration.progress(static_cast<int64_t>(losses.size()), static_cast<int64_t>(sets.size()));
  }
  return losses;
}

}  // namespace espalier

#include "env/task/metric.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

namespace espalier {
namespace {

/// [B, ...] -> [B] float64, summed over everything but samples.
Tensor PerSample(const Tensor& values) {
  return values.to(at::kDouble).reshape({values.size(0), -1}).sum(1);
}

Tensor Beside(const Tensor& first, const Tensor& second) { return at::stack({first, second}, 1); }

/// Right positions and all that count.
Tensor Right(const Tensor& right, const Tensor& counts) {
  return Beside(PerSample(right.logical_and(counts)), PerSample(counts));
}

/// Negative log-likelihood of all positions that count, and their number.
Tensor Likelihoods(const Classified& classified) {
  const Tensor nll =
      at::cross_entropy_loss(classified.logits, classified.classes, {}, at::Reduction::None);
  return Beside(PerSample(nll), PerSample(classified.classes.ne(-100)));
}

/// Mean over each sample's elements, and 1: every sample weighs the same.
template <typename OfPair>
Tensor SampleMeans(const std::vector<ValuePair>& pairs, const OfPair& loss_of) {
  Tensor sum;
  for (const ValuePair& pair : pairs) {
    const Tensor loss = loss_of(pair.value.to(at::kDouble), pair.wanted.to(at::kDouble));
    const Tensor mean = loss.reshape({loss.size(0), -1}).mean(1);  // [B]
    sum = sum.defined() ? sum + mean : mean;
  }
  return Beside(sum / static_cast<double>(pairs.size()), at::ones_like(sum));
}

class Accuracy final : public Metric {
 public:
  explicit Accuracy(const NoConfig&) {}
  Tensor Statistics(const Outcome& outcome, const MetricOptions&) const override {
    const auto [logits, classes] = AgainstTargets(outcome, "accuracy");
    return Right(logits.argmax(1).eq(classes), classes.ne(-100));
  }
};

class TopK final : public Metric {
 public:
  explicit TopK(const NoConfig&) {}
  Tensor Statistics(const Outcome& outcome, const MetricOptions& options) const override {
    const auto [logits, classes] = AgainstTargets(outcome, "top_k");
    const int64_t k = std::min(options.top_k, logits.size(1));
    const Tensor best = std::get<1>(logits.topk(k, 1));  // [B, k, ...]
    return Right(best.eq(classes.unsqueeze(1)).any(1), classes.ne(-100));
  }
};

class CrossEntropy final : public Metric {
 public:
  explicit CrossEntropy(const NoConfig&) {}
  Tensor Statistics(const Outcome& outcome, const MetricOptions&) const override {
    return Likelihoods(AgainstTargets(outcome, "cross_entropy"));
  }
};

class NextTokenNll final : public Metric {
 public:
  explicit NextTokenNll(const NoConfig&) {}
  Tensor Statistics(const Outcome& outcome, const MetricOptions&) const override {
    return Likelihoods(AgainstNextTokens(outcome, "next_token_nll"));
  }
};

class Perplexity final : public Metric {
 public:
  explicit Perplexity(const NoConfig&) {}
  Tensor Statistics(const Outcome& outcome, const MetricOptions&) const override {
    return Likelihoods(AgainstNextTokens(outcome, "perplexity"));
  }
  Tensor Figure(const Tensor& sums) const override { return (sums[0] / sums[1]).exp(); }
};

class Mse final : public Metric {
 public:
  explicit Mse(const NoConfig&) {}
  Tensor Statistics(const Outcome& outcome, const MetricOptions&) const override {
    return SampleMeans(
        ValuesAndTargets(outcome, "mse"),
        [](const Tensor& value, const Tensor& wanted) { return (value - wanted).square(); });
  }
};

class MseOutputs final : public Metric {
 public:
  explicit MseOutputs(const NoConfig&) {}
  Tensor Statistics(const Outcome& outcome, const MetricOptions&) const override {
    return SampleMeans(
        ValuesAndUncut(outcome, "mse_outputs"),
        [](const Tensor& value, const Tensor& uncut) { return (value - uncut).square(); });
  }
};

class Bce final : public Metric {
 public:
  explicit Bce(const NoConfig&) {}
  Tensor Statistics(const Outcome& outcome, const MetricOptions&) const override {
    return SampleMeans(
        ValuesAndTargets(outcome, "bce"), [](const Tensor& value, const Tensor& wanted) {
          return at::binary_cross_entropy_with_logits(value, wanted, {}, {}, at::Reduction::None);
        });
  }
};

/// Over the classes that occur, in the targets or the answers of all samples together.
class MeanIou final : public Metric {
 public:
  explicit MeanIou(const NoConfig&) {}
  Tensor Statistics(const Outcome& outcome, const MetricOptions&) const override {
    const auto [logits, classes] = AgainstTargets(outcome, "mean_iou");
    const std::vector<int64_t> sizes = {logits.size(0), logits.size(1)};
    const auto positions = [&](const Tensor& of_each) { return of_each.reshape({sizes[0], -1}); };
    const Tensor counts = classes.ne(-100), said = logits.argmax(1);
    const auto count = [&](const Tensor& which, const Tensor& marks) {  // [B, C]
      return at::zeros(sizes, marks.options().dtype(at::kDouble))
          .scatter_add_(1, positions(which), positions(marks).to(at::kDouble));
    };
    const Tensor both = count(said, said.eq(classes));
    const Tensor either = count(said, counts) + count(classes.clamp_min(0), counts) - both;
    return at::cat({both, either}, 1);
  }
  Tensor Figure(const Tensor& sums) const override {
    const auto parts = sums.chunk(2);  // intersections and unions, [C] each
    const Tensor occurs = parts[1].detach().gt(0);
    return (parts[0].masked_select(occurs) / parts[1].masked_select(occurs)).mean();
  }
};

class Agreement final : public Metric {
 public:
  explicit Agreement(const NoConfig&) {}
  Tensor Statistics(const Outcome& outcome, const MetricOptions& options) const override {
    const auto [logits, uncut] = AgainstUncut(outcome, "agreement", options.class_axis);
    const Tensor same = logits.argmax(1).eq(uncut.argmax(1));
    return Right(same, at::ones_like(same));
  }
};

class Kl final : public Metric {
 public:
  explicit Kl(const NoConfig&) {}
  Tensor Statistics(const Outcome& outcome, const MetricOptions& options) const override {
    const auto [logits, uncut] = AgainstUncut(outcome, "kl", options.class_axis);
    const Tensor log_p = at::log_softmax(logits, 1);
    const Tensor log_q = at::log_softmax(uncut, 1);
    const Tensor kl = (log_q.exp() * (log_q - log_p)).sum(1);  // [B, ...]
    return Beside(PerSample(kl), PerSample(at::ones_like(kl)));
  }
};

/// |cut - uncut|^2 / |uncut|^2 over all outputs and samples: 0 = equal, 1 = as good as zeros.
class OutputError final : public Metric {
 public:
  explicit OutputError(const NoConfig&) {}
  Tensor Statistics(const Outcome& outcome, const MetricOptions&) const override {
    Tensor distance, size;
    for (const auto& [value, uncut] : ValuesAndUncut(outcome, "output_error")) {
      const Tensor exact = uncut.to(at::kDouble);
      const Tensor off = PerSample((value.to(at::kDouble) - exact).square());
      const Tensor whole = PerSample(exact.square());
      distance = distance.defined() ? distance + off : off;
      size = size.defined() ? size + whole : whole;
    }
    return Beside(distance, size);
  }
};

const Registration<Metric, Accuracy, NoConfig> register_accuracy(
    {.name = "accuracy",
     .summary = "share of positions whose largest logit is the target's class",
     .source = "top-1",
     .facts = {kNeedsTargets, kNeedsClasses, kPercent}});
const Registration<Metric, TopK, NoConfig> register_top_k(
    {.name = "top_k",
     .summary = "share of positions whose class is among the task.top_k largest logits",
     .source = "top-k",
     .facts = {kNeedsTargets, kNeedsClasses, kPercent}});
const Registration<Metric, CrossEntropy, NoConfig> register_cross_entropy(
    {.name = "cross_entropy",
     .summary = "mean over positions",
     .source = "torch.nn.CrossEntropyLoss",
     .facts = {kNeedsTargets, kNeedsClasses, kLowerIsBetter}});
const Registration<Metric, NextTokenNll, NoConfig> register_next_token_nll(
    {.name = "next_token_nll",
     .summary = "negative log-likelihood of the next token, mean over tokens, in nats",
     .source = "cross-entropy, shifted by one",
     .facts = {kLowerIsBetter}});
const Registration<Metric, Perplexity, NoConfig> register_perplexity(
    {.name = "perplexity",
     .summary = "exp of next_token_nll",
     .source = "exp(mean negative log-likelihood)",
     .facts = {kLowerIsBetter}});
const Registration<Metric, Mse, NoConfig> register_mse({.name = "mse",
                                                        .summary = "mean square of output - target",
                                                        .source = "torch.nn.MSELoss",
                                                        .facts = {kNeedsTargets, kLowerIsBetter}});
const Registration<Metric, Bce, NoConfig> register_bce(
    {.name = "bce",
     .summary = "binary cross-entropy of logits, mean over elements",
     .source = "torch.nn.BCEWithLogitsLoss",
     .facts = {kNeedsTargets, kLowerIsBetter}});
const Registration<Metric, MeanIou, NoConfig> register_mean_iou(
    {.name = "mean_iou",
     .summary = "intersection over union of all samples, mean over classes that occur",
     .source = "Everingham et al., PASCAL VOC, IJCV 2010, §4.1.3",
     .facts = {kNeedsTargets, kNeedsClasses, kPercent}});
const Registration<Metric, Agreement, NoConfig> register_agreement(
    {.name = "agreement",
     .summary = "share of positions with the uncut network's largest logit",
     .source = "top-1 against the uncut network",
     .facts = {kNeedsUncut, kPercent}});
const Registration<Metric, Kl, NoConfig> register_kl(
    {.name = "kl",
     .summary = "divergence of the softmax from the uncut network's, in nats",
     .source = "KL(uncut || cut)",
     .facts = {kNeedsUncut, kLowerIsBetter}});
const Registration<Metric, MseOutputs, NoConfig> register_mse_outputs(
    {.name = "mse_outputs",
     .summary = "mean square of the outputs' distance from the uncut network's",
     .source = "mean squared error",
     .facts = {kNeedsUncut, kLowerIsBetter}});
const Registration<Metric, OutputError, NoConfig> register_output_error(
    {.name = "output_error",
     .summary = "squared distance from the uncut network's outputs over their squared size",
     .source = "relative mean squared error",
     .facts = {kNeedsUncut, kLowerIsBetter}});

}  // namespace

bool HasFact(const std::string& metric, const char* fact) {
  const auto& facts = Registry<Metric>::Global().Get("metric", metric).info.facts;
  return std::find(facts.begin(), facts.end(), fact) != facts.end();
}

Tangent TangentAt(const Metric& metric, const Tensor& mean_statistics) {
  const at::AutoGradMode with_grad(true);
  const Tensor mean = mean_statistics.detach().to(at::kCPU, at::kDouble).clone();
  mean.requires_grad_(true);
  const Tensor figure = metric.Figure(mean);
  figure.backward();
  return {figure.item<double>(), mean.grad()};
}

Tensor Tangent::Of(const Tensor& statistics) const {
  // The figure does not change when all means are scaled, so that mean * gradient = 0.
  return statistics.to(at::kCPU, at::kDouble).matmul(gradient) + figure;
}

Tensor Contributions(const Metric& metric, const Tensor& statistics) {
  return TangentAt(metric, statistics.mean(0)).Of(statistics);
}

Score Summarize(const std::string& name, const Metric& metric, const Tensor& statistics) {
  const Tangent tangent = TangentAt(metric, statistics.mean(0));
  const auto count = static_cast<double>(statistics.size(0));
  const Tensor spread = tangent.Of(statistics) - tangent.figure;
  Score score;
  score.metric = name;
  score.value = tangent.figure;
  score.standard_error = std::sqrt(spread.square().sum().item<double>()) / count;
  score.samples = statistics.size(0);
  return score;
}

}  // namespace espalier

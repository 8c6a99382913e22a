#include "env/task/metric.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/env/task/outcomes.h"

namespace espalier {
namespace {

using testing_support::Classes;
using testing_support::Labelled;
using testing_support::RandomOutcome;
using testing_support::Unlabelled;

Score Measure(const std::string& name, const Outcome& outcome, const MetricOptions& options = {}) {
  const auto metric = Registry<Metric>::Global().Create("metric", name);
  return Summarize(name, *metric, metric->Statistics(outcome, options));
}

/// [4, 3]: the order of classes is 0 1 2, 1 0 2, 2 1 0, 0 2 1.
Tensor Ranked() {
  return at::tensor({3.0, 2.0, 1.0, 2.0, 3.0, 1.0, 1.0, 2.0, 3.0, 3.0, 1.0, 2.0}, at::kDouble)
      .view({4, 3});
}

TEST(MetricUnit, AccuracyAndTopKByHand) {
  const Outcome outcome = Labelled(Ranked(), Classes({0, 0, 0, 2}));
  const Score top1 = Measure("accuracy", outcome);
  EXPECT_EQ(top1.value, 0.25);
  EXPECT_EQ(top1.samples, 4);
  EXPECT_NEAR(top1.standard_error, std::sqrt(0.25 * 0.75 / 4), 1e-15);
  EXPECT_EQ(Measure("top_k", outcome, {.top_k = 1}).value, 0.25);
  EXPECT_EQ(Measure("top_k", outcome, {.top_k = 2}).value, 0.75);
  EXPECT_EQ(Measure("top_k", outcome, {.top_k = 5}).value, 1);  // of 3 classes
}

TEST(MetricUnit, PositionsWithoutAClassDoNotCount) {
  // [1, 3 classes, 4 positions]; right, wrong, not counted, right.
  const Tensor logits = Ranked().t().unsqueeze(0);
  const Score score = Measure("accuracy", Labelled(logits, Classes({0, 0, -100, 0}).view({1, 4})));
  EXPECT_NEAR(score.value, 2.0 / 3, 1e-15);
}

TEST(MetricUnit, PerplexityWeighsTokensNotSamples) {
  // Softmax 1/4, 3/4 everywhere. Sample 1: tokens 1, 1; sample 2: token 0, then none.
  const Tensor logits =
      at::tensor({0.0, std::log(3.0)}, at::kDouble).expand({2, 3, 2}).contiguous();
  const Tensor tokens = Classes({0, 1, 1, 0, 0, -100}).view({2, 3});
  const double nll = (2 * std::log(4.0 / 3) + std::log(4.0)) / 3;
  EXPECT_NEAR(Measure("next_token_nll", Labelled(logits, tokens)).value, nll, 1e-12);
  const Score score = Measure("perplexity", Labelled(logits, tokens));
  EXPECT_NEAR(score.value, std::exp(nll), 1e-12);
  // Influences e^m (S_i - m T_i) / T: -a and a with a = e^m (log 4 - m) / 3.
  EXPECT_NEAR(score.standard_error, std::sqrt(2.0) * std::exp(nll) * (std::log(4.0) - nll) / 3,
              1e-12);
}

TEST(MetricUnit, MseAndBceByHand) {
  const Tensor value = at::tensor({0.0, 2.0, 1.0, 1.0}, at::kDouble).view({2, 2});
  const Tensor wanted = at::tensor({1.0, 5.0, 1.0, 1.0}, at::kDouble).view({2, 2});
  const Score mse = Measure("mse", Labelled(value, wanted));  // samples: 5 and 0
  EXPECT_NEAR(mse.value, 2.5, 1e-12);
  EXPECT_NEAR(mse.standard_error, std::sqrt(2 * 2.5 * 2.5) / 2, 1e-12);
  const Tensor logits = at::tensor({0.0, std::log(3.0)}, at::kDouble).view({2, 1});
  EXPECT_NEAR(Measure("bce", Labelled(logits, at::tensor({1.0, 0.0}).view({2, 1}))).value,
              (std::log(2.0) + std::log(4.0)) / 2, 1e-7);
}

TEST(MetricUnit, MeanIouAddsUpIntersectionsAndUnionsOfAllSamples) {
  // Said 0 1 | 1 1, wanted 0 0 | 1 0 (the last is not counted: -100), class 2 never occurs.
  const Tensor said = Classes({0, 1, 1, 1}).view({2, 2});
  const Tensor logits = at::one_hot(said, 3).to(at::kDouble).transpose(1, 2);
  const Tensor wanted = Classes({0, 0, 1, -100}).view({2, 2});
  // Class 0: 1 of 2. Class 1: 1 of 2 (said twice where it counts, wanted once, both once).
  EXPECT_NEAR(Measure("mean_iou", Labelled(logits, wanted)).value, (0.5 + 0.5) / 2, 1e-15);
  const Tensor other = Classes({0, 1, 1, 0}).view({2, 2});
  // Class 0: 1 of 2. Class 1: 2 of 3.
  EXPECT_NEAR(Measure("mean_iou", Labelled(logits, other)).value, (1.0 / 2 + 2.0 / 3) / 2, 1e-15);
}

TEST(MetricUnit, AgreementKlAndOutputErrorByHand) {
  const Tensor cut = at::tensor({2.0, 1.0, 0.0, 3.0}, at::kDouble).view({2, 2});
  const Tensor uncut = at::tensor({1.0, 0.0, 1.0, 0.0}, at::kDouble).view({2, 2});
  EXPECT_EQ(Measure("agreement", Unlabelled(cut, uncut)).value, 0.5);
  // Distances 1 + 1 + 1 + 9 over squares 1 + 1.
  EXPECT_NEAR(Measure("output_error", Unlabelled(cut, uncut)).value, 6, 1e-12);
  EXPECT_NEAR(Measure("mse_outputs", Unlabelled(cut, uncut)).value, 12.0 / 4, 1e-12);
  const Tensor quarter = at::tensor({0.0, std::log(3.0)}, at::kDouble).view({1, 2});
  EXPECT_NEAR(Measure("kl", Unlabelled(at::zeros({1, 2}, at::kDouble), quarter)).value,
              0.25 * std::log(0.5) + 0.75 * std::log(1.5), 1e-12);
}

TEST(MetricUnit, TheAxisOfTheClassesIsSaidOrFoundByLabels) {
  // [1, 2 classes, 3 positions]: the largest of two along axis 1, of three along axis 2.
  const Tensor cut = at::tensor({1.0, 0.0, 2.0, 0.0, 3.0, 1.0}, at::kDouble).view({1, 2, 3});
  const Tensor uncut = at::tensor({1.0, 2.0, 3.0, 0.0, 1.0, 2.0}, at::kDouble).view({1, 2, 3});
  EXPECT_EQ(Measure("agreement", Unlabelled(cut, uncut)).value, 0.5);
  EXPECT_EQ(Measure("agreement", Unlabelled(cut, uncut), {.class_axis = 2}).value, 0.5);
  EXPECT_EQ(Measure("agreement", Unlabelled(cut, uncut), {.class_axis = 1}).value, 2.0 / 3);
  Outcome labelled = Unlabelled(cut, uncut);
  labelled.batch.targets = {Classes({0, 1, 0}).view({1, 3})};
  EXPECT_EQ(Measure("agreement", labelled).value, 2.0 / 3);
  EXPECT_THROW(Measure("agreement", Unlabelled(cut, uncut), {.class_axis = 3}), Error);
}

class MetricConformance : public testing::TestWithParam<std::string> {
 protected:
  Tensor Statistics(uint64_t seed, int64_t samples = 200) const {
    return metric_->Statistics(RandomOutcome(GetParam(), samples, seed), {.top_k = 3});
  }
  const std::unique_ptr<Metric> metric_ = Registry<Metric>::Global().Create("metric", GetParam());
};

TEST_P(MetricConformance, ContributionsAverageToTheFigureAndSpreadLikeItsError) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(seed);
    const Tensor statistics = Statistics(seed);
    const Score score = Summarize(GetParam(), *metric_, statistics);
    const Tensor each = Contributions(*metric_, statistics);
    EXPECT_NEAR(each.mean().item<double>(), score.value, 1e-9 * std::abs(score.value));
    EXPECT_NEAR(each.std(/*unbiased=*/false).item<double>() / std::sqrt(200.0),
                score.standard_error, 1e-9 * score.standard_error);
  }
}

TEST_P(MetricConformance, StandardErrorIsThatOfTheJackknife) {
  const int64_t count = 200;
  const Tensor statistics = Statistics(3, count);
  const Tensor sums = statistics.sum(0);
  std::vector<double> left_out;
  for (int64_t i = 0; i < count; ++i)
    left_out.push_back(metric_->Figure(sums - statistics[i]).item<double>());
  const Tensor without = at::tensor(left_out, at::kDouble);
  const auto n = static_cast<double>(count);
  const double jackknife =
      std::sqrt((n - 1) / n * (without - without.mean()).square().sum().item<double>());
  // Delete-one and infinitesimal jackknife differ by terms of order 1/N.
  EXPECT_NEAR(Summarize(GetParam(), *metric_, statistics).standard_error / jackknife, 1, 0.02);
}

TEST_P(MetricConformance, SamplesAreMeasuredAlone) {
  const Outcome all = RandomOutcome(GetParam(), 6, 5);
  const auto part = [](const std::vector<Tensor>& tensors) {
    std::vector<Tensor> parts;
    for (const Tensor& tensor : tensors) parts.push_back(tensor.narrow(0, 2, 3));
    return parts;
  };
  const Outcome some{
      {.inputs = {}, .targets = part(all.batch.targets)}, part(all.outputs), part(all.uncut)};
  const Tensor whole = metric_->Statistics(all, {});
  EXPECT_EQ(whole.scalar_type(), at::kDouble);
  EXPECT_TRUE(at::allclose(metric_->Statistics(some, {}), whole.narrow(0, 2, 3), 1e-12, 1e-12));
}

INSTANTIATE_TEST_SUITE_P(All, MetricConformance,
                         testing::ValuesIn(Registry<Metric>::Global().Names()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace espalier

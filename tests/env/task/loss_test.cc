#include "env/task/loss.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "env/base/error.h"
#include "tests/env/task/outcomes.h"

namespace espalier {
namespace {

using testing::HasSubstr;
using testing_support::Classes;
using testing_support::Labelled;
using testing_support::RandomOutcome;
using testing_support::Unlabelled;

const double kLog3 = std::log(3.0);

double Value(const std::string& loss, const Outcome& outcome, const LossOptions& options = {}) {
  return Objective(loss, options).Mean(outcome).item<double>();
}

std::string Problem(const std::string& loss, const Outcome& outcome) {
  try {
    Value(loss, outcome);
  } catch (const Error& error) {
    return error.message();
  }
  return "no error";
}

/// Softmax of a row: 1/4 and 3/4.
Tensor QuarterRows(int64_t rows) {
  return at::tensor({0.0, kLog3}, at::kDouble).expand({rows, 2}).contiguous();
}

TEST(LossUnit, CrossEntropyByHand) {
  const Outcome outcome = Labelled(QuarterRows(2), Classes({1, 0}));
  EXPECT_NEAR(Value("cross_entropy", outcome), (std::log(4.0 / 3) + std::log(4.0)) / 2, 1e-12);
  // Smoothing 0.2 over 2 classes: 0.9 of the right one, 0.1 of the other; here both rows together.
  EXPECT_NEAR(Value("cross_entropy", outcome, {.label_smoothing = 0.2}),
              (std::log(4.0 / 3) + std::log(4.0)) / 2, 1e-12);
  const Outcome one = Labelled(QuarterRows(1), Classes({1}));
  EXPECT_NEAR(Value("cross_entropy", one, {.label_smoothing = 0.2}),
              0.9 * std::log(4.0 / 3) + 0.1 * std::log(4.0), 1e-12);
}

TEST(LossUnit, CrossEntropyFindsTheClassAxisAndLeavesOutMinus100) {
  const Tensor targets = Classes({1, 0, -100}).view({1, 3});
  const double expected = (std::log(4.0 / 3) + std::log(4.0)) / 2;
  const Tensor last = QuarterRows(3).view({1, 3, 2});  // [batch, token, class]
  EXPECT_NEAR(Value("cross_entropy", Labelled(last, targets)), expected, 1e-12);
  const Tensor second = last.transpose(1, 2);  // [batch, class, position]
  EXPECT_NEAR(Value("cross_entropy", Labelled(second, targets)), expected, 1e-12);
}

TEST(LossUnit, NextTokenComparesPositionTWithTokenTPlus1OfTargetsElseOfInputs) {
  const Tensor logits = QuarterRows(3).view({1, 3, 2});
  const Tensor tokens = Classes({0, 1, 0}).view({1, 3});  // the first is predicted by nobody
  const double expected = (std::log(4.0 / 3) + std::log(4.0)) / 2;
  EXPECT_NEAR(Value("next_token_nll", Labelled(logits, tokens)), expected, 1e-12);
  const Outcome unlabelled{{.inputs = {tokens}, .targets = {}}, {logits}, {}};
  EXPECT_NEAR(Value("next_token_nll", unlabelled), expected, 1e-12);
}

TEST(LossUnit, MseIsTheMeanOfTheMeansOverTargets) {
  // (0-1)^2, (2-5)^2 -> 5; the second target (1-3)^2 -> 4; mean 4.5.
  const Outcome outcome{
      {.inputs = {}, .targets = {at::tensor({1.0, 5.0}), at::tensor({3.0}).view({1, 1})}},
      {at::tensor({0.0, 2.0}), at::tensor({1.0}).view({1, 1}), at::zeros({7})},
      {}};
  EXPECT_NEAR(Value("mse", outcome), 4.5, 1e-6);
}

TEST(LossUnit, BceByHand) {
  // Logit 0, target 1: log 2. Logit log 3 (3/4), target 0: log 4.
  const Outcome outcome = Labelled(at::tensor({0.0, kLog3}, at::kDouble), at::tensor({1, 0}));
  EXPECT_NEAR(Value("bce", outcome), (std::log(2.0) + std::log(4.0)) / 2, 1e-12);
}

TEST(LossUnit, KlByHandAndAtATemperature) {
  const Outcome outcome = Unlabelled(at::zeros({2, 2}, at::kDouble), QuarterRows(2));
  // q = (1/4, 3/4) against p = (1/2, 1/2).
  EXPECT_NEAR(Value("kl", outcome), 0.25 * std::log(0.5) + 0.75 * std::log(1.5), 1e-12);
  // T = 2: q = (1, sqrt 3) / (1 + sqrt 3), and the factor T^2.
  const double q = 1 / (1 + std::sqrt(3.0));
  EXPECT_NEAR(Value("kl", outcome, {.temperature = 2}),
              4 * (q * std::log(2 * q) + (1 - q) * std::log(2 * (1 - q))), 1e-12);
}

TEST(LossUnit, MseOutputsTakesAllFloatingOutputs) {
  const Outcome outcome{{},
                        {at::tensor({1.0, 2.0}), Classes({3}), at::tensor({0.0})},
                        {at::tensor({1.0, 4.0}), Classes({4}), at::tensor({1.0})}};
  EXPECT_NEAR(Value("mse_outputs", outcome), (2.0 + 1.0) / 2, 1e-6);
}

TEST(LossUnit, EqualOutputsCostNothingAndPullNowhere) {
  for (const char* name : {"kl", "mse_outputs"}) {
    SCOPED_TRACE(name);
    const Outcome outcome = Unlabelled(QuarterRows(2).set_requires_grad(true), QuarterRows(2));
    const Tensor loss = Objective(name).Mean(outcome);
    loss.backward();
    EXPECT_NEAR(loss.item<double>(), 0, 1e-15);
    EXPECT_LT(outcome.outputs[0].grad().abs().max().item<double>(), 1e-15);
  }
}

TEST(LossUnit, LossesForGradientCriteriaHaveAGradientAtTheUncutNetwork) {
  for (const char* name : {"pseudo_label", "disturbed_mse"}) {
    SCOPED_TRACE(name);
    Outcome outcome = Unlabelled(QuarterRows(2).set_requires_grad(true), QuarterRows(2));
    Objective(name).Mean(outcome).backward();
    EXPECT_GT(outcome.outputs[0].grad().abs().min().item<double>(), 1e-4);
  }
  // The answer is class 1 with 3/4.
  EXPECT_NEAR(Value("pseudo_label", Unlabelled(QuarterRows(2), QuarterRows(2))), std::log(4.0 / 3),
              1e-12);
  // Outputs 0 and log 3 spread by log(3) / 2; a hundredth of that, squared, on the average of many.
  const Outcome many = Unlabelled(QuarterRows(5000), QuarterRows(5000));
  EXPECT_NEAR(Value("disturbed_mse", many), std::pow(0.01 * kLog3 / 2, 2), 3e-6);
}

TEST(LossUnit, SquareHeadIsRelativeToTheUncutFeaturesAndSummed) {
  // MSE 1 over mean square 2.5; MSE 4 over mean square 4.
  Outcome outcome = Unlabelled(QuarterRows(2), QuarterRows(2));
  EXPECT_THROW(Value("square_head", outcome), Error);
  outcome.features = {{at::tensor({2.0, 3.0}, at::kDouble), at::tensor({1.0, 2.0}, at::kDouble)},
                      {at::tensor({0.0, 0.0}, at::kDouble), at::tensor({2.0, -2.0}, at::kDouble)}};
  EXPECT_NEAR(Value("square_head", outcome), 1 / 2.5 + 1, 1e-10);
  for (ValuePair& feature : outcome.features) feature = {feature.value * 100, feature.wanted * 100};
  EXPECT_NEAR(Value("square_head", outcome), 1 / 2.5 + 1, 1e-10) << "scaling changes nothing";
}

TEST(LossUnit, MseFeaturesIsTheSumOfMeanSquares) {
  Outcome outcome = Unlabelled(QuarterRows(2), QuarterRows(2));
  outcome.features = {{at::tensor({2.0, 3.0}, at::kDouble), at::tensor({1.0, 2.0}, at::kDouble)},
                      {at::tensor({0.0, 0.0}, at::kDouble), at::tensor({2.0, -2.0}, at::kDouble)}};
  EXPECT_NEAR(Value("mse_features", outcome), 1 + 4, 1e-10);
  for (ValuePair& feature : outcome.features) feature = {feature.value * 10, feature.wanted * 10};
  EXPECT_NEAR(Value("mse_features", outcome), 100 * (1 + 4), 1e-8) << "unlike square_head";
}

TEST(LossUnit, TokensThatDoNotCountDoNotChangeFeatureLosses) {
  at::manual_seed(3);
  const Tensor classes = at::tensor({4, 2, -100, 1, -100, -100}, at::kLong).view({2, 3});
  Outcome outcome = Labelled(at::zeros({2, 3, 5}), classes);
  const Tensor value = at::randn({2, 3, 4}), wanted = at::randn({2, 3, 4});
  for (const char* name : {"square_head", "mse_features"}) {
    SCOPED_TRACE(name);
    outcome.features = {{value, wanted}};
    const double before = Value(name, outcome);
    Tensor padded = value.clone(), padded_wanted = wanted.clone();
    padded.masked_fill_(classes.eq(-100).unsqueeze(-1), 50);
    padded_wanted.masked_fill_(classes.eq(-100).unsqueeze(-1), -70);
    outcome.features = {{padded, padded_wanted}};
    EXPECT_DOUBLE_EQ(Value(name, outcome), before);
    // The mean over the three tokens that count.
    const Tensor counted = classes.ne(-100).flatten().nonzero().flatten();
    const auto rows = [&](const Tensor& t) { return t.view({6, 4}).index_select(0, counted); };
    const double square = (rows(value) - rows(wanted)).square().mean().item<double>();
    const double size = rows(wanted).square().mean().item<double>();
    EXPECT_NEAR(before, std::string(name) == "square_head" ? square / size : square, 1e-6);
  }
}

TEST(LossUnit, EqualFeaturesCostNothingAndPullNowhere) {
  for (const char* name : {"square_head", "mse_features"}) {
    SCOPED_TRACE(name);
    Outcome outcome = Unlabelled(QuarterRows(2), QuarterRows(2));
    const Tensor value = QuarterRows(3).set_requires_grad(true);
    outcome.features = {{value, QuarterRows(3)}};
    const Tensor loss = Objective(name).Mean(outcome);
    loss.backward();
    EXPECT_EQ(loss.item<double>(), 0);
    EXPECT_EQ(value.grad().abs().max().item<double>(), 0);
  }
}

TEST(LossUnit, SumsAreWeighted) {
  Outcome outcome = Labelled(QuarterRows(1), Classes({1}));
  outcome.uncut = {at::zeros({1, 2}, at::kDouble)};
  const double parts = 2 * Value("cross_entropy", outcome) + 0.5 * Value("kl", outcome);
  EXPECT_NEAR(Value("2 cross_entropy + 0.5 kl", outcome), parts, 1e-12);
  EXPECT_NEAR(Value("2.0cross_entropy+5e-1 kl", outcome), parts, 1e-12);
  const Objective objective("cross_entropy + 0.5 kl");
  EXPECT_TRUE(objective.Has(kNeedsTargets));
  EXPECT_TRUE(objective.Has(kNeedsUncut));
  EXPECT_FALSE(Objective("kl").Has(kNeedsTargets));
}

TEST(LossUnit, TextThatIsNoObjectiveIsAConfigError) {
  for (const char* text : {"", "+", "kl +", "0.5", "-1 kl", "0 kl", "kl kl", "cross_entropi"}) try {
      const Objective objective(text);
      ADD_FAILURE() << text;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kConfig) << text;
    }
  try {
    const Objective objective("kl + cross_entropi");
  } catch (const Error& error) {
    EXPECT_THAT(error.hint(), HasSubstr("cross_entropy"));
  }
  EXPECT_THROW(Objective("kl", {.label_smoothing = 0.1}), Error);
}

TEST(LossUnit, WhatDoesNotFitSaysBothSides) {
  const Outcome unlabelled = Unlabelled(QuarterRows(2), QuarterRows(2));
  EXPECT_THAT(Problem("cross_entropy", unlabelled), HasSubstr("needs targets"));
  EXPECT_THAT(Problem("cross_entropy", Labelled(QuarterRows(2), Classes({1, 0, 1}))),
              HasSubstr("every position of the output [2, 2]; the first target is Long [3]"));
  EXPECT_THAT(Problem("cross_entropy", Labelled(at::zeros({2}), Classes({1, 0}))),
              HasSubstr("the network returns Float [2]"));
  EXPECT_THAT(Problem("mse", Labelled(at::zeros({2, 1}), at::zeros({2}))),
              HasSubstr("target 0, which is [2]; the network returns Float [2, 1]"));
  EXPECT_THAT(Problem("next_token_nll", Labelled(at::zeros({2, 3, 4}), Classes({1, 0}))),
              HasSubstr("[2, 3, 4] and Long [2]"));
}

class LossConformance : public testing::TestWithParam<std::string> {};

TEST_P(LossConformance, GradientEqualsFiniteDifferences) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(seed);
    Outcome outcome = RandomOutcome(GetParam(), 2, seed);
    const Objective objective(GetParam(), {.temperature = 1.5});
    const Tensor point = outcome.outputs[0].clone(), feature = outcome.outputs[0] * 0.5 + 1;
    const auto loss_at = [&](const Tensor& output) {
      outcome.outputs[0] = output;
      outcome.features = {{output, feature}};
      return objective.Mean(outcome);
    };
    const Tensor leaf = point.clone().set_requires_grad(true);
    loss_at(leaf).backward();
    const Tensor gradient = leaf.grad().reshape(-1);
    constexpr double kStep = 1e-5;
    for (int64_t i = 0; i < point.numel(); ++i) {
      const auto moved = [&](double step) {
        const Tensor output = point.clone();
        output.view(-1)[i] += step;
        return loss_at(output).item<double>();
      };
      EXPECT_NEAR(gradient[i].item<double>(), (moved(kStep) - moved(-kStep)) / (2 * kStep), 1e-7);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, LossConformance, testing::ValuesIn(Registry<Loss>::Global().Names()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace espalier

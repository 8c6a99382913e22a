#include "env/train/optimizer.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

namespace espalier {
namespace {

Tensor Parameter(std::vector<double> values) {
  return at::tensor(values, at::kDouble).set_requires_grad(true);
}

double Value(const Tensor& tensor) { return tensor.item<double>(); }

TEST(OptimizerUnit, NesterovSgdByHand) {
  TrainConfig config;
  config.nesterov = true;
  config.momentum = 0.5;
  config.weight_decay = 0.1;
  const Tensor p = Parameter({2.0});
  Optimizer optimizer(config, {{"p", p}});
  p.mutable_grad() = at::tensor({1.0}, at::kDouble);
  optimizer.Prepare(0.1);
  optimizer.Update();
  // g = 1 + 0.1 * 2 = 1.2, buffer = 1.2, update = g + 0.5 * buffer = 1.8: 2 - 0.18 = 1.82.
  EXPECT_NEAR(Value(p), 1.82, 1e-12);
  EXPECT_FALSE(p.grad().defined()) << "Step clears the gradients";
  p.mutable_grad() = at::tensor({1.0}, at::kDouble);
  optimizer.Prepare(0.1);
  optimizer.Update();
  // g = 1.182, buffer = 0.6 + 1.182 = 1.782, update = 1.182 + 0.891 = 2.073: 1.82 - 0.2073.
  EXPECT_NEAR(Value(p), 1.6127, 1e-12);
}

TEST(OptimizerUnit, AdamWByHand) {
  TrainConfig config;
  config.optimizer = "adamw";
  config.weight_decay = 0.1;
  const Tensor p = Parameter({2.0});
  Optimizer optimizer(config, {{"p", p}});
  double expected = 2.0, m = 0, v = 0;
  for (int step = 1; step <= 3; ++step) {
    const double g = 0.5 * step;
    p.mutable_grad() = at::tensor({g}, at::kDouble);
    optimizer.Prepare(0.01);
    optimizer.Update();
    expected *= 1 - 0.01 * 0.1;
    m = 0.9 * m + 0.1 * g;
    v = 0.999 * v + 0.001 * g * g;
    expected -= 0.01 * (m / (1 - std::pow(0.9, step))) /
                (std::sqrt(v / (1 - std::pow(0.999, step))) + 1e-8);
    EXPECT_NEAR(Value(p), expected, 1e-9) << "step " << step;
  }
}

TEST(OptimizerUnit, NormAndBiasCanBeSparedFromDecay) {
  TrainConfig config;
  config.momentum = 0;
  config.weight_decay = 1;
  for (const bool decay : {true, false}) {
    config.decay_norm_and_bias = decay;
    const Tensor bias = Parameter({1.0});
    const Tensor weight = at::ones({1, 1}, at::kDouble).set_requires_grad(true);
    Optimizer optimizer(config, {{"bias", bias}, {"weight", weight}});
    bias.mutable_grad() = at::zeros({1}, at::kDouble);
    weight.mutable_grad() = at::zeros({1, 1}, at::kDouble);
    optimizer.Prepare(0.5);
    optimizer.Update();
    EXPECT_DOUBLE_EQ(Value(weight), 0.5);
    EXPECT_DOUBLE_EQ(Value(bias), decay ? 0.5 : 1.0);
  }
}

TEST(OptimizerUnit, WithoutGradientAParameterStays) {
  const Tensor used = Parameter({1.0}), unused = Parameter({1.0});
  Optimizer optimizer({}, {{"used", used}, {"unused", unused}});
  used.mutable_grad() = at::ones({1}, at::kDouble);
  optimizer.Prepare(0.1);
  optimizer.Update();
  EXPECT_NE(Value(used), 1.0);
  EXPECT_DOUBLE_EQ(Value(unused), 1.0);
}

TEST(OptimizerUnit, GradientOfAnotherMemoryFormatIsApplied) {
  TrainConfig config;
  config.momentum = 0;
  config.weight_decay = 0;
  const Tensor p = at::zeros({2, 3, 2, 2}).contiguous(at::MemoryFormat::ChannelsLast);
  p.set_requires_grad(true);
  const Tensor grad = at::arange(24, at::kFloat).view({2, 3, 2, 2});
  Optimizer optimizer(config, {{"p", p}});
  p.mutable_grad() = grad.contiguous(at::MemoryFormat::ChannelsLast);
  optimizer.Prepare(1);
  optimizer.Update();
  EXPECT_TRUE(at::equal(p, -grad));
}

}  // namespace
}  // namespace espalier

#include "env/train/training_step.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "env/base/error.h"
#include "env/graph/builder.h"
#include "tests/support/tiny_data.h"

namespace espalier {
namespace {

using testing_support::TinySplits;

Network Tiny() {
  Builder b("tiny", 1);
  ValueId x = b.Input("x", {2, 3, 8, 8});
  x = b.Relu(b.BatchNorm2d("bn", b.Conv2d("conv", x, 3, 6, {.padding = 1}), 6));
  return b.Finish({b.Linear("fc", b.Flatten(b.GlobalAvgPool(x)), 6, 10)});
}

TrainConfig PlainSgd() {
  TrainConfig config;
  config.lr = 0.5;
  config.momentum = config.weight_decay = 0;
  config.channels_last = false;
  return config;
}

/// Forward, backward and w -= lr g, without anything of the class under test.
void PlainStep(const Network& network, ParameterStore& weights, const Batch& batch, double lr) {
  weights.SetRequiresGrad(true);
  const Executor executor(network.graph);
  const Tensor output =
      executor.Run(executor.Bind(weights), batch.inputs, {.mode = Mode::kTrain}).front();
  at::cross_entropy_loss(output, batch.targets.front()).backward();
  const at::NoGradGuard no_grad;
  for (const auto& [name, parameter] : FloatTensors(weights, true)) {
    Tensor(parameter).sub_(parameter.grad(), lr);
    parameter.mutable_grad() = Tensor();
  }
}

TEST(TrainingStepUnit, BatchesOfAnySizeAndRateTakeTheStepsOfAPlainLoop) {
  const Network network = Tiny();
  const TrainConfig config = PlainSgd();
  const Splits splits = TinySplits(60, 10, 10);
  ParameterStore weights = network.store.Clone(), expected = network.store.Clone();
  weights.SetRequiresGrad(true);
  const Task task;
  TrainingStep step(network, weights, task, config);
  int64_t first = 0;
  double lr = 0.5;
  for (const int64_t size : {10, 10, 6, 10}) {
    const Batch batch = splits.train().Range(first, size);
    PlainStep(network, expected, batch, lr);
    step.Run(batch, lr, 0);
    for (const auto& [name, tensor] : FloatTensors(weights, false)) {
      EXPECT_TRUE(at::allclose(tensor, expected.Get(name), 0, 1e-6)) << name << ", from " << first;
      EXPECT_FALSE(tensor.grad().defined()) << name;
    }
    first += size;
    lr /= 2;
  }
  EXPECT_FALSE(at::equal(weights.Get("conv.weight"), network.store.Get("conv.weight")));
}

TEST(TrainingStepUnit, ABriefTrainingTakesTheLoadersFirstBatches) {
  Network network = Tiny();
  const ParameterStore before = network.store;  // shares tensors
  const Tensor kept = before.Get("fc.weight").clone();
  ParameterStore expected = network.store.Clone();
  const Splits splits = TinySplits(60, 10, 10);
  const Loader::Options options{.batch_size = 20, .channels_last = false, .seed = 3};
  Loader loader(splits.train(), options), again(splits.train(), options);
  TrainBriefly(network, loader, {}, PlainSgd(), 4, 1);  // into the second epoch
  for (int64_t i = 0; i < 4; ++i) PlainStep(network, expected, again.Get(i), 0.5);
  for (const char* name : {"conv.weight", "bn.running_var", "fc.bias"})
    EXPECT_TRUE(at::allclose(network.store.Get(name), expected.Get(name), 0, 1e-6)) << name;
  EXPECT_TRUE(at::equal(before.Get("fc.weight"), kept)) << "copies of the network keep theirs";

  TrainConfig wild = PlainSgd();
  wild.lr = std::numeric_limits<float>::max();
  try {
    TrainBriefly(network, loader, {}, wild, 4, 1);
    FAIL() << "trained on";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kTrials);
    EXPECT_THAT(error.message(), testing::HasSubstr("the loss is not finite in step"));
  }
}

}  // namespace
}  // namespace espalier

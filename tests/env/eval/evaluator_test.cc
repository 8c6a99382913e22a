#include "env/eval/evaluator.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cmath>

#include "env/base/error.h"
#include "env/graph/builder.h"
#include "tests/support/tiny_data.h"

namespace espalier {
namespace {

using testing_support::TinySplits;

Network TinyNet(int64_t edge = 8) {
  at::set_num_threads(1);
  Builder b("tiny", 1);
  auto x = b.Input("x", {2, 3, edge, edge});
  x = b.Relu(b.BatchNorm2d("bn1", b.Conv2d("conv1", x, 3, 6, {.padding = 1}), 6));
  x = b.Dropout(b.Flatten(b.GlobalAvgPool(x)), 0.5);
  return b.Finish({b.Linear("fc", x, 6, 10)});
}

/// Says class 3 whatever the image; logits 0, only the third log(2).
Network AlwaysThree() {
  Network network = TinyNet();
  network.store.Set("fc.weight", at::zeros({10, 6}));
  Tensor bias = at::zeros({10});
  bias[3] = std::log(2.0);
  network.store.Set("fc.bias", bias);
  return network;
}

TEST(EvaluateUnit, AccuracyStandardErrorAndLossByHand) {
  const Splits splits = TinySplits(20, 10, 45);  // labels 0..9 in turn: class 3 is 5 of 45 images
  for (const bool fast : {true, false}) {
    const Score accuracy =
        Evaluate(AlwaysThree(), splits.test(), {}, {.batch_size = 20, .fast = fast});
    EXPECT_EQ(accuracy.samples, 45);
    EXPECT_DOUBLE_EQ(accuracy.value, 5.0 / 45);
    // sqrt(1/9 * 8/9 / 45) = sqrt(8 / 3645) = 0.0468486
    EXPECT_NEAR(accuracy.standard_error, 0.0468486, 1e-7);
    // softmax: 2/11 for class 3, 1/11 else. (5 log(11/2) + 40 log 11) / 45
    EXPECT_NEAR(accuracy.loss, (5 * std::log(5.5) + 40 * std::log(11.0)) / 45, 1e-6);
  }
}

TEST(EvaluateUnit, LimitTakesTheFirstImages) {
  const Splits splits = TinySplits(20, 10, 45);
  const Score accuracy = Evaluate(AlwaysThree(), splits.test(), {}, {.batch_size = 3, .limit = 8});
  EXPECT_EQ(accuracy.samples, 8);
  EXPECT_DOUBLE_EQ(accuracy.value, 1.0 / 8);
}

TEST(EvaluateUnit, BatchSizeAndFastPathDoNotChangeTheAccuracy) {
  const Splits splits = TinySplits(20, 10, 45);
  const Score expected = Evaluate(TinyNet(), splits.test(), {}, {.batch_size = 45, .fast = false});
  for (const int64_t batch : {1, 7, 45})
    for (const bool fast : {true, false}) {
      const Score got = Evaluate(TinyNet(), splits.test(), {}, {.batch_size = batch, .fast = fast});
      EXPECT_EQ(got.value, expected.value);
      EXPECT_NEAR(got.loss, expected.loss, 1e-5);
    }
}

TEST(EvaluateUnit, FastBatchesAreWhatCachesHoldInFloatOnACpu) {
  // Behind the convolution and behind batch norm 6 * edge * edge * 4 bytes each are alive, and the
  // 10 outputs count eight times.
  EXPECT_EQ(InferenceBatch(TinyNet(8), 250, at::kFloat, at::kCPU), 250);
  EXPECT_EQ(InferenceBatch(TinyNet(40), 250, at::kFloat, at::kCPU), (8 << 20) / (2 * 38400 + 320));
  EXPECT_EQ(InferenceBatch(TinyNet(128), 250, at::kFloat, at::kCPU), 64);  // never fewer
  EXPECT_EQ(InferenceBatch(TinyNet(128), 5, at::kFloat, at::kCPU), 5);
  EXPECT_EQ(InferenceBatch(TinyNet(40), 250, at::kBFloat16, at::kCPU), 250);
  EXPECT_EQ(InferenceBatch(TinyNet(40), 250, at::kFloat, at::kCUDA), 250);
  Network fixed = TinyNet(128);
  fixed.graph.inputs.front().dynamic_batch = false;
  EXPECT_EQ(InferenceBatch(fixed, 250, at::kFloat, at::kCPU), 2);
}

TEST(EvaluateUnit, NoImagesAndNoClassesAreErrors) {
  const Splits splits = TinySplits(20, 10, 45);
  EXPECT_THROW(Evaluate(TinyNet(), Dataset{}), Error);
  Builder b("image", 1);
  const auto x = b.Input("x", {2, 3, 8, 8});
  const Network image = b.Finish({b.Conv2d("conv1", x, 3, 4)});
  EXPECT_THROW(Evaluate(image, splits.test()), Error);
}

TEST(RecalibrateUnit, StatisticsAreThePlainAverageOverBatches) {
  const Splits splits = TinySplits(40, 10, 10);
  Network network = TinyNet();
  const Network before = network;
  Loader loader(splits.train(), {.batch_size = 10, .augment = true, .seed = 9});
  RecalibrateBatchNorm(network, loader, 5);  // 4 batches an epoch
  Tensor mean = at::zeros({6}), variance = at::zeros({6});
  for (int64_t batch = 0; batch < 5; ++batch) {
    const Tensor y =
        at::conv2d(loader.Get(batch).inputs[0], network.store.Get("conv1.weight"), {}, 1, 1);
    mean += y.mean(at::IntArrayRef{0, 2, 3}) / 5;
    variance += y.var(at::IntArrayRef{0, 2, 3}, /*unbiased=*/true) / 5;
  }
  EXPECT_TRUE(at::allclose(network.store.Get("bn1.running_mean"), mean, 1e-4, 1e-5));
  EXPECT_TRUE(at::allclose(network.store.Get("bn1.running_var"), variance, 1e-4, 1e-5));
  EXPECT_TRUE(at::equal(before.store.Get("bn1.running_mean"), at::zeros({6})))
      << "a copy of the network changed";
  EXPECT_TRUE(at::equal(before.store.Get("fc.weight"), network.store.Get("fc.weight")));
}

}  // namespace
}  // namespace espalier

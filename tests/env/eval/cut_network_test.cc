#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "env/base/log.h"
#include "env/eval/evaluator.h"
#include "env/models/models.h"
#include "env/space/plan.h"
#include "env/space/space.h"
#include "env/train/trainer.h"
#include "tests/support/tiny_data.h"

namespace espalier {
namespace {

using testing_support::TinySplits;

/// ResNet-20 on 8 x 8 images with a random part of every group cut away.
Network CutResnet(bool decouple, uint64_t seed) {
  at::set_num_threads(1);
  SetQuiet(true);
  ModelOptions options;
  options.input_size = 8;
  options.seed = seed;
  const Space space = BuildSpace(BuildModel("resnet20", options), {.decouple_residuals = decouple});
  Rng rng(seed);
  Selection selection = KeepAll(space);
  for (auto& kept : selection) {
    const auto count = 1 + static_cast<size_t>(rng.Index(kept.size()));
    std::vector<int64_t> order = rng.Permutation(static_cast<int64_t>(kept.size()));
    order.resize(count);
    std::sort(order.begin(), order.end());
    kept = order;
  }
  return Cut(space.network(), MakePlan(space, selection));
}

class CutNetworkProperty : public testing::TestWithParam<bool> {};

TEST_P(CutNetworkProperty, TrainsAndThenEvaluatesAlikeOnBothPaths) {
  const Splits splits = TinySplits(64, 20, 50);
  TrainConfig config;
  config.epochs = 2;
  config.batch_size = 16;
  config.lr = 0.05;
  config.precision = "fp32";
  for (uint64_t seed = 1; seed <= 4; ++seed) {
    SCOPED_TRACE(seed);
    Network network = CutResnet(GetParam(), seed);
    const Tensor before = network.store.Get("layer2.1.conv1.weight").clone();
    const TrainResult result = Train(network, splits, {}, config, seed, {});
    EXPECT_TRUE(std::isfinite(result.history.back().train_loss));
    EXPECT_FALSE(at::equal(before, network.store.Get("layer2.1.conv1.weight")));
    const Score plain = Evaluate(network, splits.test(), {}, {.fast = false});
    const Score fast = Evaluate(network, splits.test(), {}, {.fast = true});
    EXPECT_EQ(plain.value, fast.value);
    EXPECT_NEAR(plain.loss, fast.loss, 1e-5 * std::max(1.0, plain.loss));
    const InferenceNetwork fused(network);
    for (const Op& op : fused.network().graph.ops)
      EXPECT_NE(op.target(), "aten::index_add") << op.name;
  }
}
INSTANTIATE_TEST_SUITE_P(All, CutNetworkProperty, testing::Bool(), [](const auto& info) {
  return std::string(info.param ? "Decoupled" : "Coupled");
});

}  // namespace
}  // namespace espalier

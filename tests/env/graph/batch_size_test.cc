#include "env/graph/batch_size.h"

#include <gtest/gtest.h>

#include "env/graph/builder.h"

namespace espalier {
namespace {

/// [batch, 4] -> 1000 -> 10 in float32. A sample has 4,000 bytes behind each of the first two ops,
/// which are alive together, then 40; its outputs count eight times: 320.
Network Wide() {
  Builder b("wide", 1);
  const ValueId hidden = b.Relu(b.Linear("in", b.Input("x", {2, 4}), 4, 1000));
  return b.Finish({b.Linear("out", hidden, 1000, 10)});
}

TEST(FittingBatchUnit, IsWhatFitsBetweenOneAndTheMost) {
  const Network network = Wide();
  EXPECT_EQ(FittingBatch(network, 250), 250);
  EXPECT_EQ(FittingBatch(network, 250, 8320 * 100), 100);
  EXPECT_EQ(FittingBatch(network, 250, 8320 * 100 - 1), 99);
  EXPECT_EQ(FittingBatch(network, 64, 8320 * 100), 64);
  EXPECT_EQ(FittingBatch(network, 250, 10), 1);
}

TEST(FittingBatchUnit, LogitsOfALanguageModelCountMost) {
  Builder b("language", 1);
  const ValueId tokens = b.Input("tokens", {2, 128}, at::kLong);
  const ValueId table = b.Parameter("table", at::zeros({30000, 8}));
  const ValueId x = b.Call("aten::embedding", "", {{"weight", table}, {"indices", tokens}});
  const Network network = b.Finish({b.Linear("head", x, 8, 30000, false)});
  // 128 * 30,000 * 4 bytes, alive and eight times more: 138 MB a sample; the embedding is small.
  EXPECT_EQ(FittingBatch(network, 250), 7);
}

TEST(FittingBatchUnit, AFixedBatchIsWhatWasRecorded) {
  Network network = Wide();
  network.graph.inputs.front().dynamic_batch = false;
  EXPECT_EQ(FittingBatch(network, 250), 2);
}

}  // namespace
}  // namespace espalier

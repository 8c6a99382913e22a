#include "env/latency/op_calls.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "env/base/error.h"
#include "env/eval/evaluator.h"
#include "env/latency/width_grid.h"
#include "tests/env/latency/fake_meter.h"
#include "tests/env/latency/networks.h"
#include "tests/env/space/random_selection.h"

namespace espalier {
namespace {

std::vector<int64_t> CountsOfSelection(const Selection& selection) { return KeptCounts(selection); }

/// The sum over the calls at a cut is what the cut network's own ops take: same shapes, same
/// literals, and every call runs.
void ExpectCallsOfTheCut(const Network& network, const SpaceOptions& options, int64_t batch) {
  const Space space = BuildSpace(network, options);
  ASSERT_FALSE(space.groups().empty());
  const OpCalls calls(space, batch, at::kFloat, at::kCPU);
  FakeMeter meter(BlockedTime);
  for (uint64_t seed = 0; seed < 4; ++seed) {
    SCOPED_TRACE(Str(network.name, " seed ", seed));
    const Selection selection = seed == 0 ? KeepAll(space) : RandomSelection(space, seed);
    double sum = 0;
    for (size_t op = 0; op < calls.facts().size(); ++op) {
      if (!calls.facts()[op].measured) continue;
      const OpCall call = calls.At(op, CountsOfSelection(selection));
      sum += meter.Milliseconds(call.network, {}, call.fresh);
    }
    const InferenceNetwork cut(Cut(space.network(), MakePlan(space, selection)));
    std::vector<Tensor> inputs;
    for (const Tensor& input : SampleInputs(cut.network(), batch))
      inputs.push_back(PrepareInput(input, at::kFloat));
    const double whole = meter.Milliseconds(cut.network(), inputs, {});
    EXPECT_NEAR(sum, whole, 1e-6 * whole);
  }
}

TEST(OpCallsProperty, AreThoseOfTheCutNetwork) {
  ExpectCallsOfTheCut(ConvNet(), {}, 1);
  ExpectCallsOfTheCut(ConvNet(), {}, 3);
  ExpectCallsOfTheCut(Attention(), {}, 2);
  ExpectCallsOfTheCut(Attention(), {.attention = "heads"}, 1);
  ExpectCallsOfTheCut(BuildModel("resnet20"), {}, 2);
}

TEST(OpCallsUnit, ConvolutionsAreFusedAndInputsAreTheOnlyFreshArguments) {
  const Space space = BuildSpace(ConvNet());
  const OpCalls calls(space, 1, at::kFloat, at::kCPU);
  const OpCall stem = calls.At(0, KeptCounts(KeepAll(space)));
  EXPECT_EQ(stem.network.graph.ops.size(), 1u);
  EXPECT_EQ(stem.network.graph.inputs.size(), 0u);
  ASSERT_EQ(stem.fresh.size(), 1u);  // the image; weight and folded bias are stored
  EXPECT_EQ(stem.network.store.Get(stem.fresh[0]).sizes(), (std::vector<int64_t>{1, 3, 12, 12}));
  EXPECT_TRUE(stem.network.store.Get(stem.fresh[0]).is_contiguous(at::MemoryFormat::ChannelsLast));
  EXPECT_TRUE(calls.facts()[0].heavy);
  // No batch norm is left, and no activation but the one behind the concatenation.
  int64_t activations = 0;
  for (size_t op = 0; op < calls.facts().size(); ++op) {
    EXPECT_EQ(calls.Name(op).find("batch_norm"), std::string::npos);
    activations += calls.Name(op).starts_with("aten::relu");
    EXPECT_EQ(calls.Name(op).find("hardtanh"), std::string::npos);
  }
  EXPECT_EQ(activations, 1);
}

TEST(OpCallsUnit, EqualWorkHasEqualKeysAndOtherWorkHasNot) {
  const Space space = BuildSpace(BuildModel("resnet20"));
  const OpCalls calls(space, 1, at::kFloat, at::kCPU);
  const auto full = KeptCounts(KeepAll(space));
  std::map<std::string, std::set<std::string>> keys;  // by layer of a block
  for (size_t op = 0; op < calls.facts().size(); ++op)
    for (const char* layer : {".conv1'", ".conv2'"})
      if (calls.Name(op).find("'layer1.") != std::string::npos && calls.Name(op).ends_with(layer))
        keys[layer].insert(calls.At(op, full).key);
  ASSERT_EQ(keys.size(), 2u);
  // The three blocks of a stage do the same; the second convolution also adds.
  EXPECT_EQ(keys[".conv1'"].size(), 1u);
  EXPECT_EQ(keys[".conv2'"].size(), 1u);
  EXPECT_NE(keys[".conv1'"], keys[".conv2'"]);
  auto fewer = full;
  fewer[0] -= fewer[0] > 1;
  EXPECT_NE(calls.At(0, full).key, calls.At(0, fewer).key);
}

TEST(WidthGridUnit, HasBothSidesOfEveryStairAndBothEnds) {
  using Widths = std::vector<int64_t>;
  EXPECT_EQ(WidthGrid(16, 1, 8), (Widths{1, 8, 9, 16}));
  EXPECT_EQ(WidthGrid(64, 1, 8), (Widths{1, 16, 17, 32, 33, 48, 49, 64}));
  EXPECT_EQ(WidthGrid(64, 1, 24).size(), 16u);  // stairs of 8
  EXPECT_EQ(WidthGrid(20, 4, 8), (Widths{4, 8, 12, 16, 20}));
  EXPECT_EQ(WidthGrid(1, 1, 8), (Widths{1}));
  EXPECT_EQ(WidthGrid(3, 3, 8), (Widths{3}));
}

TEST(WidthGridProperty, NeverHasMoreThanAskedForAndKeepsSteps) {
  for (int64_t full = 1; full < 3000; full += 37)
    for (const int64_t step : {1, 3, 8, 12}) {
      if (step > full) continue;
      for (const size_t most : {2u, 8u, 24u}) {
        const auto widths = WidthGrid(full, step, most);
        EXPECT_LE(widths.size(), most);
        EXPECT_EQ(widths.front(), step);
        EXPECT_EQ(widths.back(), full);
        EXPECT_TRUE(std::is_sorted(widths.begin(), widths.end()));
        for (const int64_t width : widths) EXPECT_TRUE(width % step == 0 || width == full);
      }
    }
}

}  // namespace
}  // namespace espalier

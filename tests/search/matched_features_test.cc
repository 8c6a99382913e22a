#include "search/matched_features.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "env/base/error.h"
#include "env/base/rng.h"
#include "env/graph/builder.h"
#include "env/graph/executor.h"
#include "env/space/masked_reference.h"

namespace espalier {
namespace {

/// Two residual blocks on a trunk of 6 channels; the last sum is read by a pooling, not the output.
Network Residual() {
  Builder b("residual", 1);
  ValueId x = b.Input("x", {2, 3, 6, 6});
  x = b.Relu(b.BatchNorm2d("bn", b.Conv2d("stem", x, 3, 6, {.padding = 1}), 6));
  for (const std::string block : {"one", "two"}) {
    const ValueId y = b.Relu(b.Conv2d(block + ".conv1", x, 6, 5, {.padding = 1}));
    x = b.Relu(b.Add(x, b.Conv2d(block + ".conv2", y, 5, 6, {.padding = 1})));
  }
  return b.Finish({b.Linear("fc", b.Flatten(b.GlobalAvgPool(x)), 6, 3)});
}

Network Plain() {
  Builder b("plain", 1);
  ValueId x = b.Input("x", {2, 3, 6, 6});
  x = b.Relu(b.BatchNorm2d("bn1", b.Conv2d("conv1", x, 3, 6, {.padding = 1}), 6));
  x = b.Relu(b.BatchNorm2d("bn2", b.Conv2d("conv2", x, 6, 4, {.padding = 1}), 4));
  return b.Finish({b.Linear("fc", b.Flatten(x), 4 * 36, 3)});
}

/// Random units of every group, half of them.
Selection Half(const Space& space, uint64_t seed) {
  Rng rng(seed, 0, "half");
  std::vector<std::vector<double>> scores;
  std::vector<int64_t> counts;
  for (const Group& group : space.groups()) {
    scores.emplace_back();
    for (int64_t unit = 0; unit < group.units; ++unit) scores.back().push_back(rng.Uniform());
    counts.push_back(std::max<int64_t>(1, group.units / 2));
  }
  return SelectTop(space, scores, counts);
}

std::vector<Tensor> Values(const Network& network, const std::vector<Feature>& features,
                           const Tensor& x) {
  const at::NoGradGuard no_grad;
  std::vector<Tensor> values(features.size());
  std::vector<Tap> taps;
  for (size_t i = 0; i < features.size(); ++i)
    taps.push_back({features[i].value, [&values, i](const Tensor& t) { values[i] = t.clone(); }});
  const Executor executor(network.graph);
  executor.Run(executor.Bind(network.store), {x}, {.taps = taps});
  return values;
}

/// `count` values of the network with removed units masked have, at the coordinates that were kept,
/// the very values of the cut one.
void ExpectMatching(const Space& space, const Selection& selection, size_t count) {
  const std::vector<Feature> features = MatchedFeatures(space, selection);
  ASSERT_EQ(features.size(), count);
  const std::vector<uint8_t> mask = EffectiveMask(space, UnitMask(space, selection));
  const Tensor x = at::ones({2, 3, 6, 6});
  const auto masked = Values(MaskedReference(space, mask), features, x);
  const auto cut = Values(Cut(space.network(), MakePlan(space, selection)), features, x);
  for (size_t i = 0; i < features.size(); ++i) {
    ASSERT_TRUE(cut[i].defined());
    const Tensor matching = features[i].Matching(masked[i]);
    ASSERT_EQ(matching.sizes(), cut[i].sizes());
    EXPECT_TRUE(at::allclose(matching, cut[i], 1e-5, 1e-6));
  }
}

/// Features are matched channel by channel.
TEST(FeaturesProperty, KeptCoordinatesOfTheMaskedNetworkAreTheCutOnes) {
  for (const auto& network : {Residual(), Plain()})
    for (uint64_t seed = 0; seed < 20; ++seed) {
      SCOPED_TRACE(Str(network.name, ", seed ", seed));
      const Space space = BuildSpace(network);
      const Selection selection = Half(space, seed);
      for (const Feature& feature : MatchedFeatures(space, selection))
        EXPECT_FALSE(feature.kept.empty());
      ExpectMatching(space, selection, 2);
    }
}

TEST(FeaturesUnit, WithoutACutWholeValuesAreCompared) {
  const Network network = Residual();
  const Space space = BuildSpace(network);
  const std::vector<Feature> features = MatchedFeatures(space, KeepAll(space));
  ASSERT_EQ(features.size(), 2U);
  for (const Feature& feature : features) {
    EXPECT_TRUE(feature.kept.empty());
    const auto producer = network.graph.values[static_cast<size_t>(feature.value)].producer;
    EXPECT_EQ(network.graph.ops[static_cast<size_t>(producer)].handle.operator_name().name,
              "aten::add");
  }
  EXPECT_THROW((Feature{.value = 0, .kept = {{3, at::tensor({0, 1}, at::kLong)}}}.Matching(
                   at::ones({2, 2}))),
               Error);
}

TEST(FeaturesUnit, ASumThatIsChangedInPlaceIsRecordedAfterwards) {
  Builder b("in_place", 1);
  const ValueId x = b.Linear("a", b.Input("x", {2, 4}), 4, 4);
  const ValueId sum = b.Add(x, b.Linear("b", x, 4, 4));
  const ValueId after = b.Call("aten::relu_", "", {{"self", sum}});
  const Network network = b.Finish({b.Linear("fc", after, 4, 2)});
  const Space space = BuildSpace(network);
  const std::vector<Feature> features = MatchedFeatures(space, Half(space, 1));
  ASSERT_EQ(features.size(), 1U);
  EXPECT_EQ(features[0].value, after);
  EXPECT_EQ(features[0].kept.size(), 1U);
}

TEST(FeaturesUnit, OutputsAreLeftToTheLossesOfOutputs) {
  Builder b("sum", 1);
  const ValueId x = b.Linear("a", b.Input("x", {2, 4}), 4, 4);
  const ValueId inner = b.Add(x, b.Linear("b", x, 4, 4));
  const Network network = b.Finish({b.Add(inner, b.Relu(inner))});
  const Space space = BuildSpace(network);
  const std::vector<Feature> features = MatchedFeatures(space, KeepAll(space));
  ASSERT_EQ(features.size(), 1U);
  EXPECT_EQ(features[0].value, inner);

  Builder alone("alone", 1);
  const Network layer = alone.Finish({alone.Linear("a", alone.Input("x", {2, 4}), 4, 4)});
  const Space none = BuildSpace(layer);
  EXPECT_THROW(MatchedFeatures(none, KeepAll(none)), Error);
}

TEST(FeaturesProperty, KeptCoordinatesAreTheCutOnesWhereBranchesAreGone) {
  for (const bool decoupled : {false, true})
    for (uint64_t seed = 0; seed < 20; ++seed) {
      SCOPED_TRACE(Str(decoupled ? "decoupled, " : "", "seed ", seed));
      const Space space = BuildSpace(Residual(), {.decouple_residuals = decoupled, .depth = true});
      ASSERT_EQ(space.branches().size(), 2U);
      Selection selection = Half(space, seed);
      for (size_t branch = 0; branch < 2; ++branch)
        if ((seed >> branch) % 2 == 0)
          selection[static_cast<size_t>(space.branches()[branch].group)].clear();
      ExpectMatching(space, selection, 2);
    }
}

TEST(FeaturesUnit, SumsInsideARemovedBranchAreLeftOut) {
  // x + c(y + b(y)) with y = a(x): without the outer branch there is no inner sum.
  Builder b("nested", 1);
  const ValueId x = b.Linear("stem", b.Input("x", {2, 3, 6, 6}), 6, 6);
  const ValueId y = b.Relu(b.Linear("a", x, 6, 6));
  const ValueId inner = b.Add(y, b.Linear("b", y, 6, 6));
  const ValueId outer = b.Add(x, b.Linear("c", inner, 6, 6));
  const Network network = b.Finish({b.Linear("fc", outer, 6, 3)});
  const Space space = BuildSpace(network, {.depth = true});
  ASSERT_EQ(space.branches().size(), 2U);
  EXPECT_EQ(MatchedFeatures(space, KeepAll(space)).size(), 2U);
  for (const Branch& branch : space.branches()) {
    Selection selection = Half(space, 1);
    for (const Branch& any : space.branches()) selection[static_cast<size_t>(any.group)] = {0};
    selection[static_cast<size_t>(branch.group)].clear();
    const bool whole = network.graph.ops[static_cast<size_t>(branch.op)].outputs[0] == outer;
    ExpectMatching(space, selection, whole ? 1 : 2);
  }
}

TEST(FeaturesUnit, TheSelectionOfAnotherSpaceIsRefused) {
  const Space space = BuildSpace(Residual()), other = BuildSpace(Residual(), {.depth = true});
  EXPECT_THROW(MatchedFeatures(space, KeepAll(other)), Error);
  EXPECT_THROW(MatchedFeatures(other, KeepAll(space)), Error);
}

}  // namespace
}  // namespace espalier

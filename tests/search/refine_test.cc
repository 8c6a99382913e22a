#include "search/refine.h"

#include <gtest/gtest.h>

#include "env/graph/executor.h"
#include "search/compensate.h"
#include "search/uniform.h"
#include "tests/support/tiny_environment.h"

namespace espalier {
namespace {

struct CutNetwork {
  Plan plan;
  Network network;
};

CutNetwork CutUniformly(const TinyEnvironment& tiny) {
  SearchContext context;
  const SearchResult result = Uniform({}).Run(tiny.Get(), context);
  Plan plan = MakePlan(tiny.Get().space, result.selection);
  Network network = Cut(tiny.network(), plan);
  return {std::move(plan), std::move(network)};
}

/// Mean squared distance of the cut network's outputs from the uncut ones, on test images.
double Distance(const TinyEnvironment& tiny, const Network& cut) {
  const Tensor images = tiny.Get().splits->test().Range(0, 32).inputs[0];
  return at::mse_loss(Forward(cut, images), Forward(tiny.network(), images)).item<double>();
}

TEST(RefineUnit, OffLeavesTheCutNetworkBitForBit) {
  const TinyEnvironment tiny;
  const CutNetwork cut = CutUniformly(tiny);
  SearchContext context;
  const RefineResult result = Refine(tiny.Get(), cut.plan, cut.network, {}, context);
  EXPECT_EQ(result.network.WeightsHash(), cut.network.WeightsHash());
}

TEST(RefineUnit, EachStepBringsTheOutputsNearerAndLeavesItsInputAlone) {
  const TinyEnvironment tiny;
  const CutNetwork cut = CutUniformly(tiny);
  const std::string before = cut.network.WeightsHash();
  const double distance = Distance(tiny, cut.network);
  const std::vector<RefineConfig> steps = {
      {.batch_size = 32, .compensate_batches = 4},
      {.batch_size = 32, .compensate_batches = 4, .residual = false},
      {.batch_size = 32, .tune_batches = 20, .tune_lr = 0.02, .tune_loss = "mse_outputs"}};
  for (const RefineConfig& config : steps) {
    SearchContext context{.seed = 3};
    const RefineResult result = Refine(tiny.Get(), cut.plan, cut.network, config, context);
    EXPECT_LT(Distance(tiny, result.network), 0.7 * distance) << result.info.dump();
    EXPECT_EQ(cut.network.WeightsHash(), before);
    SearchContext again{.seed = 3};
    EXPECT_EQ(Refine(tiny.Get(), cut.plan, cut.network, config, again).network.WeightsHash(),
              result.network.WeightsHash());
  }
}

TEST(RefineUnit, TuningTouchesOnlyNormsAndLinearBiases) {
  const TinyEnvironment tiny;
  const CutNetwork cut = CutUniformly(tiny);
  SearchContext context{.seed = 3};
  const RefineResult result =
      Refine(tiny.Get(), cut.plan, cut.network, {.batch_size = 32, .tune_batches = 3}, context);
  for (const std::string& name : cut.network.store.CanonicalNames()) {
    const bool same = at::equal(cut.network.store.Get(name), result.network.store.Get(name));
    const bool tuned = (name.find("bn") != std::string::npos &&
                        cut.network.store.Kind(name) == StoreKind::kParameter) ||
                       name == "fc.bias";
    EXPECT_EQ(same, !tuned) << name;
  }
}

TEST(CompensateProperty, RestoresDuplicatedUnitsExactly) {
  // Unit 1 of the hidden layer copies unit 0 and unit 3 is twice unit 2: cutting 1 and 3 loses
  // nothing that the consumer could not take from 0 and 2.
  for (uint64_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(seed);
    Builder b("copies", seed);
    ValueId x = b.Input("x", {2, 3, 6, 6});
    x = b.Relu(b.Conv2d("a", x, 3, 4, {.padding = 1}));
    x = b.Conv2d("b", x, 4, 5, {.padding = 1, .bias = true});
    Network network = b.Finish({x});
    Tensor weight = network.store.Get("a.weight");
    weight[1].copy_(weight[0]);
    weight[3].copy_(weight[2] * 2);
    const Space space = BuildSpace(network);
    ASSERT_EQ(space.FindGroup("a"), 0);
    const Plan plan = MakePlan(space, {{0, 2}});
    Network cut = Cut(network, plan);
    const Tensor images = at::randn({64, 3, 6, 6});
    const Tensor wanted = Forward(network, images);
    const double before = at::mse_loss(Forward(cut, images), wanted).item<double>();
    const CompensateResult done =
        Compensate(network, plan, cut, {images}, {.ridge = 1e-9, .residual = true});
    ASSERT_EQ(done.layers.size(), 2U);
    EXPECT_LT(at::mse_loss(Forward(cut, images), wanted).item<double>(), 1e-6 * before);
    EXPECT_LT(done.layers[1].error_after, 1e-6);
  }
}

TEST(CompensateUnit, WithoutACutNothingChanges) {
  const TinyEnvironment tiny;
  const Plan plan = MakePlan(tiny.Get().space, KeepAll(tiny.Get().space));
  Network same = Cut(tiny.network(), plan);
  const Tensor images = at::randn({32, 3, 8, 8});
  const Tensor before = Forward(same, images);
  Compensate(tiny.network(), plan, same, {images}, {});
  EXPECT_TRUE(at::allclose(Forward(same, images), before, 1e-4, 1e-5));
}

TEST(CompensateUnit, BranchesAimAtTheTrunkAndGroupedConvolutionsAreNamed) {
  const TinyEnvironment tiny;
  const CutNetwork cut = CutUniformly(tiny);
  Network changed = cut.network;
  changed.store = cut.network.store.Clone();
  const CompensateResult done =
      Compensate(tiny.network(), cut.plan, changed, {at::randn({64, 3, 8, 8})}, {});
  std::map<std::string, std::string> targets;
  for (const CompensatedLayer& layer : done.layers) {
    targets[layer.name] = layer.target;
    EXPECT_LE(layer.error_after, layer.error_before + 1e-9) << layer.name;
  }
  EXPECT_EQ(targets.at("b1.conv1"), "output");
  EXPECT_EQ(targets.at("b1.conv2"), "trunk");

  const TinyEnvironment grouped(TinyEnvironment::HalfMacs(), /*grouped=*/true);
  const CutNetwork other = CutUniformly(grouped);
  Network copy = other.network;
  copy.store = other.network.store.Clone();
  const auto skipped =
      Compensate(grouped.network(), other.plan, copy, {at::randn({8, 3, 8, 8})}, {}).skipped;
  ASSERT_EQ(skipped.size(), 1U);
  EXPECT_EQ(skipped[0], "grouped: grouped convolution");
}

}  // namespace
}  // namespace espalier

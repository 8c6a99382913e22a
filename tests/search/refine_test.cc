#include "search/refine.h"

#include <gtest/gtest.h>

#include "env/base/error.h"
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
double Distance(const TinyEnvironment& tiny, const Network& uncut, const Network& cut) {
  const Tensor images = tiny.Get().splits->test().Range(0, 32).inputs[0];
  return at::mse_loss(Forward(cut, images), Forward(uncut, images)).item<double>();
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
  const double distance = Distance(tiny, tiny.network(), cut.network);
  const std::vector<RefineConfig> steps = {
      {.batch_size = 32, .compensate_batches = 4},
      {.batch_size = 32, .compensate_batches = 4, .residual = false},
      {.batch_size = 32, .tune_batches = 20, .tune_lr = 0.02, .tune_loss = "mse_outputs"}};
  for (const RefineConfig& config : steps) {
    SearchContext context{.seed = 3};
    const RefineResult result = Refine(tiny.Get(), cut.plan, cut.network, config, context);
    EXPECT_LT(Distance(tiny, tiny.network(), result.network), 0.7 * distance) << result.info.dump();
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

TEST(CompensateUnit, PositionsSayHowManySamplesALayerIsFittedOn) {
  Builder b("plain", 2);
  ValueId x = b.Relu(b.Conv2d("a", b.Input("x", {2, 3, 6, 6}), 3, 8, {.padding = 1}));
  x = b.Relu(b.Conv2d("b", x, 8, 8, {.padding = 1}));
  const Network network = b.Finish({b.Conv2d("c", x, 8, 4, {.padding = 1, .bias = true})});
  const Space space = BuildSpace(network);
  const Plan plan = MakePlan(space, {{0, 2, 4, 6}, {1, 2, 3, 5, 7}});
  at::manual_seed(1);
  const Tensor images = at::randn({40, 3, 6, 6}), tried = at::randn({4, 3, 6, 6});
  const auto fitted = [&](const Tensor& on, int64_t positions) {
    Network cut = Cut(network, plan);
    cut.store = cut.store.Clone();
    Compensate(network, plan, cut, {on}, {.positions = positions});
    return Forward(cut, tried);
  };
  const Tensor all = fitted(images, 0);
  EXPECT_TRUE(at::equal(fitted(images, 40 * 36), all));
  EXPECT_TRUE(at::equal(fitted(images, 1 << 30), all));
  const Tensor ten = fitted(images, 9 * 36 + 1);  // a tenth sample for the one position more
  EXPECT_FALSE(at::equal(ten, all));
  EXPECT_TRUE(at::allclose(ten, fitted(images.narrow(0, 0, 10), 0), 1e-5, 1e-6));
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

/// Two residual blocks for the images of TinyEnvironment; the second has a shortcut of its own.
Network Residual() {
  Builder b("residual", 3);
  ValueId x = b.Input("x", {2, 3, 8, 8});
  x = b.Relu(b.BatchNorm2d("bn", b.Conv2d("stem", x, 3, 8, {.padding = 1}), 8));
  for (const std::string block : {"b1", "b2"}) {
    ValueId y = b.Conv2d(block + ".conv1", x, 8, 12, {.padding = 1});
    y = b.Relu(b.BatchNorm2d(block + ".bn1", y, 12));
    y = b.BatchNorm2d(block + ".bn2", b.Conv2d(block + ".conv2", y, 12, 8, {.padding = 1}), 8);
    if (block == "b2") x = b.BatchNorm2d("down.bn", b.Conv2d("down", x, 8, 8, {.kernel = 1}), 8);
    x = b.Relu(b.Add(y, x));
  }
  return b.Finish({b.Linear("fc", b.Flatten(b.GlobalAvgPool(x)), 8, 3)});
}

/// Half of every group; of the branches only that of module `gone` goes.
Selection HalfWithoutBranch(const Space& space, const std::string& gone) {
  std::vector<int64_t> counts;
  for (const Group& group : space.groups()) counts.push_back(group.Keepable(group.units / 2));
  for (const Branch& branch : space.branches())
    counts[static_cast<size_t>(branch.group)] = branch.module == gone ? 0 : 1;
  return SelectFirst(space, counts);
}

class RefineDepthUnit : public testing::TestWithParam<std::tuple<bool, const char*>> {};

TEST_P(RefineDepthUnit, EachStepBringsTheOutputsNearerWhereABranchIsGone) {
  const auto& [decoupled, gone] = GetParam();
  const TinyEnvironment tiny;  // for its images
  const Space space = BuildSpace(Residual(), {.decouple_residuals = decoupled, .depth = true});
  const CostModel cost(space);
  const Budget budget(cost, TinyEnvironment::HalfMacs());
  const Environment environment{
      .space = space, .cost = cost, .budget = budget, .splits = tiny.Get().splits};
  const Plan plan = MakePlan(space, HalfWithoutBranch(space, gone));
  ASSERT_EQ(plan.branches.size(), 1U);
  const Network cut = Cut(space.network(), plan);
  const double distance = Distance(tiny, space.network(), cut);
  const std::vector<RefineConfig> steps = {
      {.batch_size = 32, .compensate_batches = 4},
      {.batch_size = 32, .compensate_batches = 4, .residual = false},
      {.batch_size = 32, .compensate_batches = 4, .tune_batches = 5},
      {.batch_size = 32, .tune_batches = 20, .tune_lr = 0.02, .tune_loss = "mse_outputs"}};
  for (const RefineConfig& config : steps) {
    SearchContext context{.seed = 3};
    const RefineResult result = Refine(environment, plan, cut, config, context);
    EXPECT_LT(Distance(tiny, space.network(), result.network), 0.7 * distance)
        << result.info.dump();
    if (config.compensate_batches == 0) continue;
    std::map<std::string, std::string> targets;
    for (const auto& layer : result.info["compensated"]) targets[layer["name"]] = layer["target"];
    const std::string left = gone == std::string("b1") ? "b2" : "b1";
    EXPECT_EQ(targets.at(left + ".conv1"), "output");
    EXPECT_EQ(targets.size(), 5U) << "stem, two of the block that is left, down, fc";
  }
}

INSTANTIATE_TEST_SUITE_P(Branches, RefineDepthUnit,
                         testing::Combine(testing::Bool(), testing::Values("b1", "b2")));

TEST(CompensateUnit, ALinearBranchThatGoesIsMadeUpForByWhatReadsTheSum) {
  // head(x + f(x)) with a linear f is a linear map of x: the head alone can compute it.
  Builder b("linear_branch", 1);
  const ValueId x = b.Conv2d("stem", b.Input("x", {2, 3, 6, 6}), 3, 4, {.padding = 1});
  const ValueId f = b.Conv2d("f", x, 4, 4, {.kernel = 1, .bias = true});
  const Network network =
      b.Finish({b.Conv2d("head", b.Add(x, f), 4, 5, {.kernel = 1, .bias = true})});
  const Space space = BuildSpace(network, {.depth = true});
  ASSERT_EQ(space.branches().size(), 1U);
  Selection selection = KeepAll(space);
  selection[static_cast<size_t>(space.branches()[0].group)].clear();
  const Plan plan = MakePlan(space, selection);
  Network cut = Cut(space.network(), plan);
  at::manual_seed(1);
  const Tensor images = at::randn({64, 3, 6, 6});
  const Tensor wanted = Forward(network, images);
  const double before = at::mse_loss(Forward(cut, images), wanted).item<double>();
  const CompensateResult done =
      Compensate(space.network(), plan, cut, {images}, {.ridge = 1e-9, .residual = true});
  ASSERT_EQ(done.layers.size(), 2U);
  EXPECT_EQ(done.layers[1].name, "head");
  EXPECT_LT(at::mse_loss(Forward(cut, images), wanted).item<double>(), 1e-6 * before);
}

TEST(CompensateUnit, ATrunkThatIsNotThereYetIsNoTarget) {
  // The shortcut runs between what the branch's last layer reads and that layer.
  Builder b("late", 1);
  const ValueId x = b.Input("x", {2, 3, 6, 6});
  const ValueId y = b.Relu(b.Conv2d("conv1", x, 3, 8, {.padding = 1}));
  const ValueId trunk = b.Conv2d("down", x, 3, 4, {.kernel = 1});
  const ValueId branch = b.BatchNorm2d("bn", b.Conv2d("conv2", y, 8, 4, {.padding = 1}), 4);
  const Network network = b.Finish({b.Add(trunk, branch)});
  const Space space = BuildSpace(network);
  const Plan plan = MakePlan(space, {{0, 1, 2, 3}});
  Network cut = Cut(network, plan);
  const CompensateResult done = Compensate(network, plan, cut, {at::randn({32, 3, 6, 6})}, {});
  ASSERT_EQ(done.layers.size(), 3U);
  for (const CompensatedLayer& layer : done.layers) EXPECT_EQ(layer.target, "output");
}

TEST(CompensateUnit, TheCutOfAnotherNetworkIsRefused) {
  const TinyEnvironment tiny;
  const CutNetwork other = CutUniformly(tiny);
  const Space space = BuildSpace(Residual());
  const Plan plan = MakePlan(space, KeepAll(space));
  Network cut = other.network;
  try {
    Compensate(space.network(), plan, cut, {at::randn({2, 3, 8, 8})}, {});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInternal);
  }
}

}  // namespace
}  // namespace espalier

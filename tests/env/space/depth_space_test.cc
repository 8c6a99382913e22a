#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "env/base/error.h"
#include "env/cost/budget.h"
#include "env/cost/cost.h"
#include "env/graph/builder.h"
#include "env/models/models.h"
#include "env/space/certificate.h"
#include "env/space/plan.h"
#include "tests/env/space/random_selection.h"

namespace espalier {
namespace {

std::vector<std::string> DepthGroups(const Space& space) {
  std::vector<std::string> names;
  for (const Group& group : space.groups())
    if (group.kind == "depth") names.push_back(group.name);
  return names;
}

/// y = x + f(x), where f(x) = b(relu(a(x))): two convolutions of 4 channels.
Network OneBlock(int64_t inside = 8) {
  Builder b("block", 3);
  const ValueId x = b.Conv2d("stem", b.Input("x", {2, 3, 6, 6}), 3, 4, {.padding = 1});
  const ValueId f =
      b.Conv2d("b", b.Relu(b.Conv2d("a", x, 4, inside, {.padding = 1})), inside, 4, {.padding = 1});
  return b.Finish({b.Conv2d("head", b.Add(x, f), 4, 2, {.padding = 1})});
}

TEST(DepthUnit, ARemovedBranchLeavesItsTrunk) {
  const Network network = OneBlock();
  const Space space = BuildSpace(network, {.depth = true});
  ASSERT_EQ(space.branches().size(), 1U);
  const Branch& branch = space.branches().front();
  EXPECT_EQ(branch.stored, (std::vector<std::string>{"a.weight", "b.weight"}));
  const Group& group = space.groups()[static_cast<size_t>(branch.group)];
  EXPECT_EQ(group.kind, "depth");
  EXPECT_EQ(group.units, 1);
  EXPECT_EQ(group.least, 0);
  Selection selection = KeepAll(space);
  selection[static_cast<size_t>(branch.group)].clear();
  const Plan plan = MakePlan(space, selection);
  EXPECT_TRUE(plan.kept.empty());  // nothing else is cut
  EXPECT_EQ(plan.removed, branch.stored);
  const Network cut = Cut(space.network(), plan);
  EXPECT_EQ(cut.store.names(), (std::vector<std::string>{"stem.weight", "head.weight"}));
  EXPECT_EQ(cut.graph.ops.size(), network.graph.ops.size() - 3);  // a, relu, b
  const at::NoGradGuard no_grad;
  at::manual_seed(1);
  const Tensor x = at::randn({2, 3, 6, 6});
  const Tensor stem = at::conv2d(x, network.store.Get("stem.weight"), {}, 1, 1);
  EXPECT_TRUE(
      at::equal(Forward(cut, x), at::conv2d(stem, network.store.Get("head.weight"), {}, 1, 1)));
}

class DepthProperty : public testing::TestWithParam<std::tuple<const char*, bool>> {};

TEST_P(DepthProperty, AnyBranchesGoWithAnyUnits) {
  const auto [model, decoupled] = GetParam();
  ModelOptions options;
  options.input_size = 32;
  const Space space =
      BuildSpace(BuildModel(model, options), {.decouple_residuals = decoupled, .depth = true});
  const Space plain = BuildSpace(BuildModel(model, options), {.decouple_residuals = decoupled});
  ASSERT_EQ(space.groups().size(), plain.groups().size() + space.branches().size());
  const CostModel cost(space);
  for (uint64_t seed = 1; seed <= 2; ++seed) {
    SCOPED_TRACE(seed);
    const Selection selection = RandomHalf(space, seed);
    const Plan plan = MakePlan(space, selection);
    ASSERT_FALSE(plan.branches.empty());
    const Plan again = PlanFromJson(ToJson(plan));
    const Network cut = Cut(space.network(), again);
    const Certificate certificate = Certify(space, selection, plan, cut, seed);
    EXPECT_TRUE(certificate.passed) << certificate.failure << " rel " << certificate.max_rel_error
                                    << " f64 " << certificate.max_rel_error_f64;
    const auto counts = KeptCounts(selection);
    const Cost expected = cost.Evaluate(std::vector<double>(counts.begin(), counts.end()));
    const Cost found = CostModel(BuildSpace(cut)).Full();
    EXPECT_EQ(expected.macs, found.macs);
    EXPECT_EQ(expected.params, found.params);
    EXPECT_EQ(expected.activation_bytes, found.activation_bytes);
    const StreamedCut streamed = CutStreamed(space.network(), plan);
    EXPECT_EQ(WeightsHash(streamed.network.store, streamed.load), cut.WeightsHash());
  }
}

INSTANTIATE_TEST_SUITE_P(Models, DepthProperty,
                         testing::Combine(testing::Values("resnet20", "mobilenet_v2"),
                                          testing::Bool()));

TEST(DepthUnit, EveryBlockOfAResNetIsABranch) {
  const Space space = BuildSpace(BuildModel("resnet20"), {.depth = true});
  EXPECT_EQ(DepthGroups(space).size(), 9U);
  EXPECT_EQ(DepthGroups(BuildSpace(BuildModel("resnet20"))).size(), 0U);
  const Space partly = BuildSpace(BuildModel("resnet20"), {.exclude = {"layer1.*"}, .depth = true});
  EXPECT_EQ(DepthGroups(partly).size(), 6U);
}

TEST(DepthUnit, ABudgetTakesBranchesOnlyWhereItIsTold) {
  const Space space = BuildSpace(BuildModel("resnet20"), {.depth = true});
  const CostModel cost(space);
  BudgetConfig config;
  config.macs = Quantity{0.5, true};
  const Budget budget(cost, config);
  Decision decision(space.groups().size(), 1.0);
  const auto branches = [&](const std::vector<int64_t>& kept) {
    int64_t left = 0;
    for (const Branch& branch : space.branches()) left += kept[static_cast<size_t>(branch.group)];
    return left;
  };
  const auto all = budget.Project(decision);
  EXPECT_TRUE(budget.Feasible(all));
  EXPECT_EQ(branches(all), 9);
  decision[static_cast<size_t>(space.branches()[4].group)] = 0.2;
  const auto without = budget.Project(decision);
  EXPECT_EQ(branches(without), 8);
  EXPECT_EQ(without[static_cast<size_t>(space.branches()[4].group)], 0);
  // Narrower than one channel everywhere: only without branches.
  const Bound least = budget.bounds().front();
  config.macs = Quantity{least.least * 1.01, false};
  EXPECT_LT(branches(Budget(cost, config).Project(Decision(space.groups().size(), 1.0))), 9);
}

TEST(DepthUnit, PlansOfOtherNetworksAreRefused) {
  const Space space = BuildSpace(OneBlock(), {.depth = true});
  Selection selection = KeepAll(space);
  selection[static_cast<size_t>(space.branches().front().group)].clear();
  Plan plan = MakePlan(space, selection);
  plan.branches.front().node = "conv2d_1";
  EXPECT_THROW(Cut(space.network(), plan), Error);
  plan = MakePlan(space, selection);
  plan.removed.push_back("stem.weight");
  EXPECT_THROW(Cut(space.network(), plan), Error);
}

TEST(PlanUnit, TheSelectionOfAnotherSpaceIsRefusedBeforeItIsUsed) {
  const Network network = OneBlock();
  const Space plain = BuildSpace(network), deep = BuildSpace(network, {.depth = true});
  const Space narrow = BuildSpace(OneBlock(3));
  const Plan plan = MakePlan(deep, KeepAll(deep));
  const auto refuses = [](const auto& use) {
    try {
      use();
    } catch (const Error& error) {
      return error.kind() == ErrorKind::kInternal;
    }
    return false;
  };
  for (const auto& [space, other] :
       {std::pair(&plain, &deep), std::pair(&deep, &plain), std::pair(&narrow, &plain)}) {
    const Selection selection = KeepAll(*other);
    EXPECT_TRUE(refuses([&] { UnitMask(*space, selection); }));
    EXPECT_TRUE(refuses([&] { MakePlan(*space, selection); }));
    EXPECT_TRUE(refuses([&] { CostModel(*space).Of(*space, selection); }));
    EXPECT_TRUE(refuses([&] { Certify(*space, selection, plan, network); }));
  }
  EXPECT_TRUE(refuses([&] { EffectiveMask(plain, UnitMask(deep, KeepAll(deep))); }));
  EXPECT_TRUE(refuses([&] { Certify(plain, KeepAll(plain), plan, BuildModel("resnet20")); }))
      << "a cut of another network";
}

}  // namespace
}  // namespace espalier

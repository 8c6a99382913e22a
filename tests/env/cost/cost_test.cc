#include "env/cost/budget.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "env/base/error.h"
#include "env/graph/builder.h"
#include "env/models/models.h"

namespace espalier {
namespace {

/// conv 3->8 (3x3, pad 1, bias) on 4x4, batch-norm, relu, flatten, linear 128->10.
Network Small() {
  Builder b("small");
  ValueId x = b.Conv2d("conv", b.Input("x", {2, 3, 4, 4}), 3, 8, {.padding = 1, .bias = true});
  x = b.Relu(b.BatchNorm2d("bn", x, 8));
  return b.Finish({b.Linear("fc", b.Flatten(x), 128, 10)});
}

TEST(CostUnit, CountsByHand) {
  const Space space = BuildSpace(Small());
  const CostModel cost(space);
  // conv 8*3*16*9 = 3456, linear 128*10 = 1280; thop: + bn 2*128 + conv bias 128.
  EXPECT_EQ(cost.Full(Convention::kCanonical).macs, 3456 + 1280);
  EXPECT_EQ(cost.Full(Convention::kThop).macs, 3456 + 1280 + 256 + 128);
  // conv 216 + 8, bn 16, linear 1280 + 10.
  EXPECT_EQ(cost.Full().params, 216 + 8 + 16 + 1290);
  // conv, bn, relu: 128 floats each; linear 10.
  EXPECT_EQ(cost.Full().activation_bytes, 4 * (3 * 128 + 10));
  const std::vector<double> half = {4};
  EXPECT_EQ(cost.Evaluate(half).macs, 1728 + 640);
  // autobot: the bias stays at full width.
  EXPECT_EQ(cost.Evaluate(half, Convention::kAutobot).macs, 1728 + 640 + 128 + 128);
  EXPECT_EQ(cost.Evaluate(half, Convention::kThop).macs, 1728 + 640 + 128 + 64);
}

TEST(CostUnit, ListsWhatIsNotCounted) {
  Builder b("odd");
  const ValueId x =
      b.Call("aten::cumsum", "", {{"self", b.Input("x", {2, 3})}, {"dim", c10::IValue(1)}}, "odd");
  const Network net = b.Finish({b.Linear("fc", x, 3, 2)});
  const CostModel cost(BuildSpace(net));
  EXPECT_EQ(cost.uncounted(), std::vector<std::string>{"aten::cumsum at 'odd'"});
}

TEST(CostProperty, PolynomialEqualsARecountOfTheCutNetwork) {
  for (const char* name : {"resnet20", "densenet40", "vgg16_bn_cifar"}) {
    const Space space = BuildSpace(BuildModel(name), {.decouple_residuals = true});
    const CostModel cost(space);
    for (uint64_t seed = 0; seed < 3; ++seed) {
      SCOPED_TRACE(Str(name, " seed ", seed));
      Rng rng(seed);
      std::vector<std::vector<double>> scores;
      std::vector<int64_t> counts;
      for (const Group& group : space.groups()) {
        scores.emplace_back();
        for (int64_t u = 0; u < group.units; ++u) scores.back().push_back(rng.Uniform());
        counts.push_back(1 + static_cast<int64_t>(rng.Index(static_cast<uint64_t>(group.units))));
      }
      const Network cut = Cut(space.network(), MakePlan(space, SelectTop(space, scores, counts)));
      const CostModel recount(BuildSpace(cut));
      const std::vector<double> kept(counts.begin(), counts.end());
      for (const Convention convention : {Convention::kCanonical, Convention::kThop}) {
        EXPECT_EQ(cost.Evaluate(kept, convention).macs, recount.Full(convention).macs);
        EXPECT_EQ(cost.Evaluate(kept, convention).activation_bytes,
                  recount.Full(convention).activation_bytes);
      }
      EXPECT_EQ(cost.Evaluate(kept).params, static_cast<double>(cut.store.ParameterCount()));
    }
  }
}

TEST(CostProperty, GradientMatchesFiniteDifferences) {
  const CostModel cost(BuildSpace(BuildModel("densenet40")));
  Rng rng(3);
  std::vector<double> kept;
  for (const int64_t units : cost.units())
    kept.push_back(rng.Uniform(1, static_cast<double>(units)));
  for (const CostKind kind : {CostKind::kMacs, CostKind::kParams, CostKind::kActivationBytes}) {
    const auto gradient = cost.Gradient(kind, Convention::kAutobot, kept);
    const Tensor counts = at::tensor(kept, at::kDouble).set_requires_grad(true);
    const Tensor value = cost.Evaluate(kind, Convention::kAutobot, counts);
    EXPECT_DOUBLE_EQ(value.item<double>(), cost.Evaluate(kind, Convention::kAutobot, kept));
    value.backward();
    for (size_t g = 0; g < kept.size(); ++g) {
      auto up = kept, down = kept;
      up[g] += 1e-3;
      down[g] -= 1e-3;
      const double slope = (cost.Evaluate(kind, Convention::kAutobot, up) -
                            cost.Evaluate(kind, Convention::kAutobot, down)) /
                           2e-3;
      EXPECT_NEAR(gradient[g], slope, 1e-5 * std::abs(slope) + 1e-6);
      EXPECT_EQ(counts.grad()[static_cast<int64_t>(g)].item<double>(), gradient[g]);
    }
  }
}

TEST(BudgetUnit, UnreachableBoundSaysWhichAndTheLeast) {
  const CostModel cost(BuildSpace(BuildModel("resnet20"), {.decouple_residuals = true}));
  BudgetConfig config;
  config.params = Quantity{0.5, true};
  config.macs = Quantity{0.001, true};
  try {
    Budget budget(cost, config);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kBudget);
    EXPECT_NE(error.message().find("budget.macs"), std::string::npos);
    EXPECT_NE(error.message().find("least reachable"), std::string::npos);
  }
}

TEST(BudgetProperty, ProjectionMeetsEveryBoundClosely) {
  const CostModel cost(BuildSpace(BuildModel("resnet56"), {.decouple_residuals = true}));
  for (uint64_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(seed);
    Rng rng(seed);
    Decision decision;
    for (size_t g = 0; g < cost.units().size(); ++g) decision.push_back(rng.Uniform(0.05, 1));
    for (const int64_t round_to : {1, 4}) {
      BudgetConfig config;
      config.macs = Quantity{0.5, true};
      config.params = Quantity{0.6, true};
      config.round_to = round_to;
      const Budget budget(cost, config);
      const auto kept = budget.Project(decision);
      EXPECT_TRUE(budget.Feasible(kept));
      double tightest = 0;
      const std::vector<double> counts(kept.begin(), kept.end());
      for (const Bound& bound : budget.bounds())
        tightest = std::max(tightest,
                            cost.Evaluate(bound.kind, budget.convention(), counts) / bound.limit);
      EXPECT_GT(tightest, 0.99);  // within one step of the widest layer
      for (size_t g = 0; g < kept.size(); ++g)
        EXPECT_TRUE(kept[g] % round_to == 0 || kept[g] == cost.units()[g]);
    }
  }
}

TEST(BudgetProperty, FeasibleWhereItIsAndMonotone) {
  const CostModel cost(BuildSpace(BuildModel("resnet20"), {.decouple_residuals = true}));
  const Decision decision(cost.units().size(), 0.5);
  double last = 0;
  for (const double fraction : {0.2, 0.4, 0.6, 0.8, 1.0}) {
    BudgetConfig config;
    config.macs = Quantity{fraction, true};
    const auto kept = Budget(cost, config).Project(decision);
    const std::vector<double> counts(kept.begin(), kept.end());
    const double macs = cost.Evaluate(counts).macs;
    EXPECT_GT(macs, last);
    last = macs;
  }
  EXPECT_EQ(last, cost.Full().macs);  // a fraction of 1 keeps everything
}

}  // namespace
}  // namespace espalier

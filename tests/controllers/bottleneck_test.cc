#include "controllers/bottleneck.h"

#include <gtest/gtest.h>

#include <cmath>

#include "controllers/gate_folding.h"
#include "env/base/error.h"
#include "env/graph/builder.h"
#include "env/models/models.h"

namespace espalier {
namespace {

/// stem (3 -> 4) - two residual blocks on a trunk of 4 - classifier; decoupled: 4 branch groups.
Network TinyResNet() {
  Builder b("tiny_resnet", 3);
  ValueId x = b.Input("x", {2, 3, 8, 8});
  x = b.Relu(b.BatchNorm2d("bn", b.Conv2d("stem", x, 3, 4, {.padding = 1}), 4));
  for (const std::string block : {"b1", "b2"}) {
    ValueId y = b.Conv2d(block + ".conv1", x, 4, 6, {.padding = 1});
    y = b.Relu(b.BatchNorm2d(block + ".bn1", y, 6));
    y = b.BatchNorm2d(block + ".bn2", b.Conv2d(block + ".conv2", y, 6, 4, {.padding = 1}), 4);
    x = b.Relu(b.Add(x, y));
  }
  return b.Finish({b.Linear("fc", b.Flatten(b.GlobalAvgPool(x)), 4, 3)});
}

Space Decoupled(const Network& network) {
  return BuildSpace(network, {.decouple_residuals = true, .exclude = {}});
}

std::vector<Tensor> RunGated(const Space& space, const ParameterStore& store, const Tensor& input,
                             const std::vector<Gate>& gates) {
  const Executor executor(space.network().graph);
  return executor.Run(executor.Bind(store), {input}, {.gates = gates});
}

ParameterStore DoubleStore(const ParameterStore& store) {
  ParameterStore copy = store.Clone();
  for (const std::string& name : copy.CanonicalNames()) {
    const Tensor& tensor = copy.Get(name);
    if (at::isFloatingType(tensor.scalar_type())) copy.Set(name, tensor.to(at::kDouble));
  }
  return copy;
}

TEST(BottleneckUnit, StartsAtTheInitialValueEverywhere) {
  const Network network = TinyResNet();
  const Space space = Decoupled(network);
  const Bottleneck bottleneck(space, 0.9, at::kCPU);
  EXPECT_EQ(bottleneck.alpha().numel(), space.total_units());
  EXPECT_NEAR(bottleneck.alpha()[0].item<double>(), 2.1972, 1e-4);
  EXPECT_TRUE(at::allclose(bottleneck.Lambda(), at::full({space.total_units()}, 0.9f)));
  // L_bin = mean over groups of mean |0.9 - 1| = 0.1, whatever the widths
  EXPECT_NEAR(bottleneck.BinaryLoss(bottleneck.Lambda()).item<double>(), 0.1, 1e-6);
  EXPECT_EQ(bottleneck.used_groups(), static_cast<int64_t>(space.groups().size()));
}

TEST(BottleneckUnit, EveryGroupWeighsTheSameInTheBinaryLoss) {
  const Network network = TinyResNet();
  const Space space = Decoupled(network);
  const Bottleneck bottleneck(space, 0.5, at::kCPU, at::kDouble);
  const auto groups = static_cast<double>(space.groups().size());
  for (size_t g = 0; g < space.groups().size(); ++g) {
    Tensor lambda = at::ones({space.total_units()}, at::kDouble);
    lambda.narrow(0, space.unit_offset(g), space.groups()[g].units).fill_(0.75);
    EXPECT_NEAR(bottleneck.BinaryLoss(lambda).item<double>(), 0.25 / groups, 1e-12);
  }
}

TEST(BottleneckUnit, SoftCountsAreSumsPerGroup) {
  const Network network = TinyResNet();
  const Space space = Decoupled(network);
  const Bottleneck bottleneck(space, 0.9, at::kCPU, at::kDouble);
  const Tensor counts = bottleneck.SoftCounts(bottleneck.Lambda());
  for (size_t g = 0; g < space.groups().size(); ++g) {
    EXPECT_NEAR(counts[static_cast<int64_t>(g)].item<double>(),
                0.9 * static_cast<double>(space.groups()[g].units), 1e-12);
  }
}

TEST(BottleneckUnit, OpenGatesChangeNothing) {
  const Network network = TinyResNet();
  const Space space = Decoupled(network);
  const Bottleneck bottleneck(space, 0.9, at::kCPU);
  const Tensor input = at::randn({2, 3, 8, 8});
  const Tensor open = at::ones({space.total_units()});
  const Tensor gated =
      RunGated(space, space.network().store, input, bottleneck.Gates(open)).front();
  EXPECT_TRUE(at::equal(gated, Forward(network, input)));  // x * 1 is exact
}

TEST(BottleneckProperty, ClosedGatesEqualTheCutNetwork) {
  const Network network = TinyResNet();
  for (const bool decouple : {true, false}) {
    const Space space = BuildSpace(network, {.decouple_residuals = decouple, .exclude = {}});
    const Bottleneck bottleneck(space, 0.9, at::kCPU, at::kDouble);
    const ParameterStore store = DoubleStore(space.network().store);
    for (uint64_t seed = 0; seed < 20; ++seed) {
      SCOPED_TRACE(seed);
      Rng rng(seed, 0, "closed gates");
      Selection selection;
      for (const Group& group : space.groups()) {
        auto order = rng.Permutation(group.units);
        order.resize(1 + rng.Index(static_cast<uint64_t>(group.units)));
        std::sort(order.begin(), order.end());
        selection.push_back(order);
      }
      const std::vector<uint8_t> mask = UnitMask(space, selection);
      const Tensor lambda = at::tensor(mask, at::kByte).to(at::kDouble);
      const Tensor input = at::randn({2, 3, 8, 8}, at::kDouble);
      const Tensor masked = RunGated(space, store, input, bottleneck.Gates(lambda)).front();
      const Plan plan = MakePlan(space, selection);
      Network cut = Cut(space.network(), plan);
      cut.store = DoubleStore(cut.store);
      EXPECT_TRUE(at::allclose(Forward(cut, input), masked, 1e-7, 1e-7));
    }
  }
}

TEST(BottleneckProperty, GradientsMatchFiniteDifferences) {
  const Network network = TinyResNet();
  const Space space = Decoupled(network);
  const ParameterStore store = DoubleStore(space.network().store);
  const CostModel cost(space);
  const double full = cost.Full(Convention::kAutobot).macs;
  const Bound bound{.kind = CostKind::kMacs, .limit = 0.4 * full, .full = full, .least = 0};
  const Tensor input = at::randn({2, 3, 8, 8}, at::kDouble);
  const Tensor labels = at::tensor({0, 2}, at::kLong);
  const Bottleneck bottleneck(space, 0.8, at::kCPU, at::kDouble);
  const auto objective = [&](const Tensor& lambda) {
    const Tensor logits = RunGated(space, store, input, bottleneck.Gates(lambda)).front();
    return at::cross_entropy_loss(logits, labels) +
           6 * BudgetLoss(cost, Convention::kAutobot, {&bound, 1}, bottleneck.SoftCounts(lambda)) +
           0.4 * bottleneck.BinaryLoss(lambda);
  };
  objective(bottleneck.Lambda()).backward();
  const Tensor alpha = bottleneck.alpha().detach();
  const double step = 1e-5;
  for (int64_t unit = 0; unit < space.total_units(); unit += 3) {
    SCOPED_TRACE(unit);
    Tensor up = alpha.clone(), down = alpha.clone();
    up[unit] += step;
    down[unit] -= step;
    const double slope =
        (objective(at::sigmoid(up)) - objective(at::sigmoid(down))).item<double>() / (2 * step);
    EXPECT_NEAR(bottleneck.alpha().grad()[unit].item<double>(), slope, 1e-6);
  }
}

TEST(GateFoldingProperty, EqualsGatesInValueAndGradient) {
  for (const std::string name : {"tiny", "densenet40", "vgg16_bn_cifar", "resnet20"}) {
    SCOPED_TRACE(name);
    const Network network = name == "tiny" ? TinyResNet() : BuildModel(name, {.seed = 5});
    const Space space = Decoupled(network);
    const ParameterStore store = DoubleStore(space.network().store);
    const GateFolding folding(space.network(), space.reads());
    EXPECT_GT(folding.folded(), 0);
    const Bottleneck bottleneck(space, 0.7, at::kCPU, at::kDouble);
    Tensor alpha = bottleneck.alpha();
    {
      const at::NoGradGuard no_grad;
      alpha.add_(at::randn_like(alpha));
    }
    const Tensor input = at::randn({2, 3, 32, 32}, at::kDouble);
    const Executor executor(space.network().graph);
    std::vector<Tensor> outputs, gradients;
    for (const bool fold : {false, true}) {
      const Tensor lambda = bottleneck.Lambda();
      std::vector<Gate> gates = bottleneck.Gates(lambda);
      ParameterStore scaled = store;
      const size_t all = gates.size();
      if (fold) {
        folding.Apply(store, gates, scaled);
        EXPECT_LT(gates.size(), all);
      }
      outputs.push_back(executor.Run(executor.Bind(scaled), {input}, {.gates = gates}).front());
      at::cross_entropy_loss(outputs.back(), at::tensor({0, 2}, at::kLong)).backward();
      gradients.push_back(alpha.grad().clone());
      alpha.mutable_grad() = Tensor();
    }
    EXPECT_TRUE(at::allclose(outputs[0], outputs[1], 1e-7, 1e-7));
    EXPECT_TRUE(at::allclose(gradients[0], gradients[1], 1e-7, 1e-7));
  }
}

TEST(BudgetLossUnit, IsOneAtFullZeroAtTargetHalfAtHalfTheTarget) {
  const Network network = TinyResNet();
  const Space space = Decoupled(network);
  const CostModel cost(space);
  std::vector<double> widths;
  for (const Group& group : space.groups()) widths.push_back(static_cast<double>(group.units));
  const Tensor units = at::tensor(widths, at::kDouble);
  const double full = cost.Full(Convention::kAutobot).macs;
  const auto loss = [&](double limit) {
    const Bound bound{.kind = CostKind::kMacs, .limit = limit, .full = 2 * full, .least = 0};
    return BudgetLoss(cost, Convention::kAutobot, {&bound, 1}, units).item<double>();
  };
  EXPECT_NEAR(loss(full), 0, 1e-12);            // F = T
  EXPECT_NEAR(loss(2 * full), 0.5, 1e-12);      // F = T / 2: 1 - F / T
  EXPECT_NEAR(loss(full / 2), 1.0 / 3, 1e-12);  // (F - F/2) / (2F - F/2)
  const Bound whole{.kind = CostKind::kMacs, .limit = full / 3, .full = full, .least = 0};
  EXPECT_NEAR(BudgetLoss(cost, Convention::kAutobot, {&whole, 1}, units).item<double>(), 1, 1e-12);
}

TEST(BudgetLossUnit, FollowsTheBoundMostExceeded) {
  const Network network = TinyResNet();
  const Space space = Decoupled(network);
  const CostModel cost(space);
  std::vector<double> widths;
  for (const Group& group : space.groups()) widths.push_back(static_cast<double>(group.units));
  const Tensor units = at::tensor(widths, at::kDouble).set_requires_grad(true);
  const Cost full = cost.Full(Convention::kCanonical);
  const std::vector<Bound> bounds = {
      {.kind = CostKind::kMacs, .limit = 0.9 * full.macs, .full = full.macs, .least = 0},
      {.kind = CostKind::kParams, .limit = 0.5 * full.params, .full = full.params, .least = 0}};
  // Parameters exceed by 2, MACs by 1.11: (F - T) / (M - T) = 1 for the parameters.
  const Tensor loss = BudgetLoss(cost, Convention::kCanonical, bounds, units);
  EXPECT_NEAR(loss.item<double>(), 1, 1e-12);
  loss.backward();
  const auto gradient = cost.Gradient(CostKind::kParams, Convention::kCanonical, widths);
  for (size_t g = 0; g < gradient.size(); ++g) {
    EXPECT_NEAR(units.grad()[static_cast<int64_t>(g)].item<double>(),
                gradient[g] / (0.5 * full.params), 1e-12);
  }
}

/// beta L_F of the first step, lambda = 0.9 everywhere: pure arithmetic on the built-in networks.
/// Expected values: the authors' logs and, for GoogLeNet, the closed form they follow.
struct StepOne {
  const char* network;
  bool decouple;
  std::vector<std::string> exclude;
  double beta, target, expected, tolerance;
  int64_t masks;
};
void PrintTo(const StepOne& run, std::ostream* out) { *out << run.network << " at " << run.target; }
class BottleneckStepOneUnit : public testing::TestWithParam<StepOne> {};

TEST_P(BottleneckStepOneUnit, MatchesTheAuthorsLog) {
  const StepOne& run = GetParam();
  const Network network = BuildModel(run.network);
  const Space space =
      BuildSpace(network, {.decouple_residuals = run.decouple, .exclude = run.exclude});
  const CostModel cost(space);
  const Bound bound{.kind = CostKind::kMacs,
                    .limit = run.target,
                    .full = cost.Full(Convention::kAutobot).macs,
                    .least = 0};
  const Bottleneck bottleneck(space, 0.9, at::kCPU);
  EXPECT_EQ(bottleneck.used_groups(), run.masks);
  const Tensor lambda = bottleneck.Lambda();
  const Tensor loss =
      BudgetLoss(cost, Convention::kAutobot, {&bound, 1}, bottleneck.SoftCounts(lambda));
  EXPECT_NEAR(run.beta * loss.item<double>(), run.expected, run.tolerance);
  EXPECT_NEAR(0.4 * bottleneck.BinaryLoss(lambda).item<double>(), 0.040, 1e-6);
}

INSTANTIATE_TEST_SUITE_P(
    Logged, BottleneckStepOneUnit,
    testing::Values(StepOne{"resnet56", true, {}, 6, 55.84e6, 4.4438, 6e-5, 54},
                    StepOne{"resnet110", true, {}, 6, 85.3e6, 4.6947, 6e-5, 108},
                    StepOne{
                        "vgg16_bn_cifar", false, {"classifier*"}, 6, 108.61e6, 4.2664, 6e-5, 13},
                    StepOne{"densenet40", false, {}, 6, 128.11e6, 3.9640, 6e-5, 39},
                    StepOne{"googlenet_cifar", false, {}, 6, 450e6, 4.393, 6e-4, 64},
                    StepOne{"resnet50", false, {}, 10, 960e6, 7.5619, 6e-5, 37}),
    [](const auto& info) { return std::string(info.param.network); });

/// Gates at the consumers and surgery are the same function, on every architecture: scatter-add,
/// concatenation and tied trunks.
class MaskedEqualsCutProperty : public testing::TestWithParam<std::pair<const char*, bool>> {};

TEST_P(MaskedEqualsCutProperty, AtRandomSelections) {
  const auto [name, decouple] = GetParam();
  const Network network = BuildModel(name, {.seed = 5});
  const Space space = BuildSpace(network, {.decouple_residuals = decouple, .exclude = {}});
  const Bottleneck bottleneck(space, 0.9, at::kCPU);
  Rng rng(9, 0, name);
  Selection selection;
  for (const Group& group : space.groups()) {
    auto order = rng.Permutation(group.units);
    order.resize(1 + rng.Index(static_cast<uint64_t>(group.units)));
    std::sort(order.begin(), order.end());
    selection.push_back(order);
  }
  const Tensor mask = at::tensor(UnitMask(space, selection), at::kByte).to(at::kFloat);
  const Tensor lambda = mask.clamp_min(1e-8);  // what a closed gate is worth in float32
  const Tensor input = at::randn({2, 3, 32, 32});
  const at::NoGradGuard no_grad;
  const Tensor masked =
      RunGated(space, space.network().store, input, bottleneck.Gates(lambda)).front();
  const Tensor cut = Forward(Cut(space.network(), MakePlan(space, selection)), input);
  const double scale = masked.abs().max().item<double>();
  EXPECT_LT((cut - masked).abs().max().item<double>(), 1e-4 * std::max(scale, 1.0));
}

INSTANTIATE_TEST_SUITE_P(Builtin, MaskedEqualsCutProperty,
                         testing::Values(std::pair{"resnet20", true}, std::pair{"resnet20", false},
                                         std::pair{"vgg16_bn_cifar", false},
                                         std::pair{"densenet40", false},
                                         std::pair{"googlenet_cifar", false}),
                         [](const auto& info) {
                           return std::string(info.param.first) +
                                  (info.param.second ? "_decoupled" : "");
                         });

}  // namespace
}  // namespace espalier

#include "criteria/regularisers/regulariser.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "env/graph/builder.h"
#include "tests/support/regulariser_conformance.h"

namespace espalier {
namespace {

using testing::HasSubstr;

INSTANTIATE_TEST_SUITE_P(All, RegulariserConformance,
                         testing::ValuesIn(Registry<Regulariser>::Global().Names()),
                         [](const auto& info) { return info.param; });

/// Linear 2 -> 3 (no bias), linear 3 -> 1: one group of three units with the norms
/// I = sqrt(9 + 0 + 16), sqrt(1 + 0 + 0), sqrt(4 + 4 + 1) = 5, 1, 3.
class ThreeUnits {
 public:
  explicit ThreeUnits(const std::string& text)
      : regulariser_(MakeRegulariser(text)),
        network_(MakeNetwork()),
        space_(BuildSpace(network_)),
        pulled_(*regulariser_, space_, network_.store) {}
  /// Gradients of both weights, as the penalty adds them.
  std::pair<Tensor, Tensor> Pull() {
    for (const char* name : {"first.weight", "second.weight"})
      Tensor(pulled_.store().Get(name)).mutable_grad() = Tensor();
    Penalty(*regulariser_, pulled_.weights(), pulled_.memory()).backward();
    return {pulled_.store().Get("first.weight").grad(),
            pulled_.store().Get("second.weight").grad()};
  }
  void EndEpoch() {
    const at::NoGradGuard no_grad;
    regulariser_->Remember(pulled_.weights(), regulariser_->Sizes(pulled_.weights()),
                           pulled_.memory());
  }
  /// Each unit's weights times its coefficient.
  static std::pair<Tensor, Tensor> Times(const std::vector<double>& coefficients) {
    const Tensor c = at::tensor(coefficients, at::kDouble);
    return {First().to(at::kDouble) * c.unsqueeze(1), Second().to(at::kDouble) * c};
  }

 private:
  static Tensor First() { return at::tensor({3.F, 0.F, 1.F, 0.F, 2.F, -2.F}).view({3, 2}); }
  static Tensor Second() { return at::tensor({4.F, 0.F, 1.F}).view({1, 3}); }
  static Network MakeNetwork() {
    Builder b("three", 1);
    ValueId x = b.Input("x", {2, 2});
    x = b.Linear("first", x, 2, 3, /*bias=*/false);
    Network network = b.Finish({b.Linear("second", b.Relu(x), 3, 1, /*bias=*/false)});
    network.store.Set("first.weight", First());
    network.store.Set("second.weight", Second());
    return network;
  }
  const std::unique_ptr<const Regulariser> regulariser_;
  const Network network_;
  const Space space_;
  PulledNetwork pulled_;
};

void ExpectNear(const std::pair<Tensor, Tensor>& got, const std::pair<Tensor, Tensor>& wanted) {
  EXPECT_TRUE(at::allclose(got.first, wanted.first, 1e-12, 0)) << got.first << wanted.first;
  EXPECT_TRUE(at::allclose(got.second, wanted.second, 1e-12, 0)) << got.second << wanted.second;
}

TEST(GroupSparsityUnit, AddsLambdaGammaTimesEachWeight) {
  // Shortfalls (5 - I) / (5 - 1): 0, 1, 1/2; gamma = 2^(4 shortfall): 1, 16, 4.
  ThreeUnits three("group_sparsity(lambda=0.01, alpha=4)");
  ExpectNear(three.Pull(), ThreeUnits::Times({0.01, 0.16, 0.04}));
  ExpectNear(ThreeUnits("group_sparsity(lambda=0.01, alpha=0)").Pull(),
             ThreeUnits::Times({0.01, 0.01, 0.01}));
}

TEST(GrowingUnit, TheWeakestGrowsByDeltaAnEpochAndTheStrongestStays) {
  ThreeUnits three("growing(lambda=1e-3, delta=1e-4)");
  for (int epoch = 0; epoch < 5; ++epoch) {
    const double n = epoch;
    ExpectNear(three.Pull(), ThreeUnits::Times({1e-3, 1e-3 + n * 1e-4, 1e-3 + n * 0.5e-4}));
    three.EndEpoch();
  }
}

TEST(NetworkSlimmingUnit, PullsScalesByTheirSignAndNothingElse) {
  Builder b("slim", 1);
  ValueId x = b.Input("x", {2, 2, 4, 4});
  x = b.Relu(b.BatchNorm2d("bn", b.Conv2d("conv", x, 2, 3), 3));
  Network network = b.Finish({b.Linear("fc", b.Flatten(b.GlobalAvgPool(x)), 3, 2)});
  network.store.Set("bn.weight", at::tensor({-2.F, 0.F, 0.5F}));
  const Space space = BuildSpace(network);
  for (const auto& [text, wanted] :
       {std::pair("network_slimming(lambda=0.1)", at::tensor({-0.1, 0.0, 0.1}, at::kDouble)),
        std::pair("network_slimming(lambda=0.1, tied=true)",
                  at::tensor({-0.1, 0.0, 0.1}, at::kDouble))}) {
    SCOPED_TRACE(text);
    const auto regulariser = MakeRegulariser(text);
    PulledNetwork pulled(*regulariser, space, network.store);
    Penalty(*regulariser, pulled.weights(), pulled.memory()).backward();
    const Tensor grad = pulled.store().Get("bn.weight").grad();
    EXPECT_TRUE(at::allclose(grad, wanted, 1e-12, 0)) << grad;
    for (const char* name : {"conv.weight", "fc.weight", "bn.bias"})
      EXPECT_FALSE(pulled.store().Get(name).grad().defined()) << name;
  }
}

TEST(NetworkSlimmingUnit, TiedScalesShareOneNorm) {
  Builder b("trunk", 1);
  ValueId x = b.Input("x", {2, 2, 4, 4});
  const ValueId left = b.BatchNorm2d("bn1", b.Conv2d("conv1", x, 2, 2), 2);
  const ValueId right = b.BatchNorm2d("bn2", b.Conv2d("conv2", x, 2, 2), 2);
  x = b.GlobalAvgPool(b.Add(left, right));
  Network network = b.Finish({b.Linear("fc", b.Flatten(x), 2, 2)});
  network.store.Set("bn1.weight", at::tensor({3.F, 1.F}));
  network.store.Set("bn2.weight", at::tensor({-4.F, 0.F}));
  const auto regulariser = MakeRegulariser("network_slimming(lambda=0.1, tied=true)");
  const Space space = BuildSpace(network);
  PulledNetwork pulled(*regulariser, space, network.store);
  Penalty(*regulariser, pulled.weights(), pulled.memory()).backward();
  // sqrt(9 + 16) = 5 and sqrt(1 + 0) = 1
  EXPECT_TRUE(at::allclose(pulled.store().Get("bn1.weight").grad(),
                           at::tensor({0.06, 0.1}, at::kDouble), 1e-12, 0));
  EXPECT_TRUE(at::allclose(pulled.store().Get("bn2.weight").grad(),
                           at::tensor({-0.08, 0.0}, at::kDouble), 1e-12, 0));
}

/// conv - bn - grouped conv (blocks on axis 0 keep different columns) - flatten - linear.
Network Varied(uint64_t seed) {
  Builder b("varied", seed);
  ValueId x = b.Input("x", {2, 3, 4, 4});
  x = b.Relu(b.BatchNorm2d("bn", b.Conv2d("a", x, 3, 8, {.padding = 1}), 8));
  x = b.Relu(b.Conv2d("b", x, 8, 6, {.stride = 2, .padding = 1, .groups = 2}));
  x = b.Relu(b.Add(x, b.Conv2d("c", x, 6, 6, {.padding = 1, .groups = 6})));
  return b.Finish({b.Linear("fc", b.Flatten(x), 6 * 4, 3)});
}

TEST(UnitWeightsProperty, SumsAreThoseOfTheLayouts) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(seed);
    const Network network = Varied(seed);
    const Space space = BuildSpace(network);
    const auto counts = [](const GroupView::Slice& slice) { return !slice.is_bias; };
    const Tensor sums = SquaredNorms(UnitWeights(space, network.store, counts));
    std::vector<Tensor> wanted;
    for (const GroupView& view : ViewGroups(space, network.store)) {
      Tensor sum = at::zeros({view.units}, at::kDouble);
      for (const GroupView::Slice& slice : view.slices)
        if (counts(slice)) sum += slice.SumPowers(2);
      wanted.push_back(sum);
    }
    EXPECT_TRUE(at::allclose(sums.to(at::kDouble), at::cat(wanted), 1e-5, 1e-6));
  }
}

TEST(RegulariserUnit, UnknownNamesAndNetworksWithoutWhatItActsOnAreSaid) {
  const auto error_of = [](const auto& make) {
    try {
      make();
    } catch (const Error& error) {
      return Str(error.message(), " | ", error.hint());
    }
    return std::string("none");
  };
  EXPECT_THAT(error_of([] { MakeRegulariser("group_sparsty"); }), HasSubstr("group_sparsity"));
  EXPECT_THAT(error_of([] { MakeRegulariser("growing(lamda=1)"); }), HasSubstr("lambda"));
  EXPECT_THAT(error_of([] { MakeRegulariser("growing(lambda=nan)"); }), HasSubstr("lambda"));
  EXPECT_THAT(error_of([] { MakeRegulariser("growing(lambda=-1)"); }), HasSubstr("lambda"));
  Builder b("plain", 1);
  const Network network =
      b.Finish({b.Linear("out", b.Relu(b.Linear("in", b.Input("x", {2, 2}), 2, 3)), 3, 1)});
  EXPECT_THAT(error_of([&] {
                const auto slimming = MakeRegulariser("network_slimming");
                const Space space = BuildSpace(network);
                PulledNetwork(*slimming, space, network.store);
              }),
              HasSubstr("'plain' has no weight that the regulariser acts on"));
}

}  // namespace
}  // namespace espalier

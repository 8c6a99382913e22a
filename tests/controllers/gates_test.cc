#include "controllers/gates.h"

#include <gtest/gtest.h>

#include <cmath>

#include "controllers/adam.h"
#include "env/base/error.h"

namespace espalier {
namespace {

Tensor Leaf(std::vector<double> values) {
  return at::tensor(values, at::kDouble).set_requires_grad(true);
}

TEST(GatesUnit, LogitOfInvertsTheSigmoid) {
  EXPECT_NEAR(LogitOf(0.9), std::log(9.0), 1e-12);  // AutoBot's 2.1972
  for (const double open : {0.01, 0.5, 0.9, 0.999}) {
    EXPECT_NEAR(1 / (1 + std::exp(-LogitOf(open))), open, 1e-12);
  }
  EXPECT_THROW(LogitOf(1.0), Error);
  EXPECT_THROW(LogitOf(0.0), Error);
}

TEST(GatesUnit, StraightThroughIsHardForwardAndSoftBackward) {
  const Tensor soft = Leaf({0.1, 0.49, 0.5, 0.7});
  const Tensor hard = StraightThroughThreshold(soft, 0.5);
  EXPECT_TRUE(at::equal(hard, at::tensor({0.0, 0.0, 1.0, 1.0}, at::kDouble)));  // exactly
  const Tensor weights = at::tensor({1.0, 2.0, 3.0, 4.0}, at::kDouble);
  (hard * weights).sum().backward();
  EXPECT_TRUE(at::equal(soft.grad(), weights));
}

TEST(GatesUnit, StraightThroughRoundRoundsExactlyInFloat32) {
  const Tensor x = at::linspace(0, 1, 1001);
  EXPECT_TRUE(at::equal(StraightThroughRound(x), x.round()));
}

TEST(GatesUnit, DistanceToBinaryHasGradientOneBelowHalfAndMinusOneAbove) {
  const Tensor x = Leaf({0.2, 0.9});
  const Tensor distance = DistanceToBinary(x);
  EXPECT_NEAR(distance[0].item<double>(), 0.2, 1e-15);
  EXPECT_NEAR(distance[1].item<double>(), 0.1, 1e-15);
  distance.sum().backward();
  EXPECT_TRUE(at::equal(x.grad(), at::tensor({1.0, -1.0}, at::kDouble)));
}

TEST(GatesUnit, GumbelSigmoidOpensAsOftenAsItsClosedForm) {
  // P(gate > 1/2 | l) = 1 - exp(-exp(l + b)), b = 3, with the published values. 200,000 draws: the
  // standard deviation is at most 0.00112; 0.0065 is 5.8 of them (chance 7e-9 each).
  struct Known {
    double logit, open, digits;
  };
  for (const auto& [logit, open, digits] : {Known{0, 1 - 1.9e-9, 5e-11}, Known{-3, 0.632, 5e-4},
                                            Known{-3.3665, 0.5, 5e-5}, Known{-4, 0.3078, 5e-5}}) {
    SCOPED_TRACE(logit);
    const double closed_form = 1 - std::exp(-std::exp(logit + 3));
    EXPECT_NEAR(closed_form, open, digits);
    Rng rng(1, 0, "gumbel");
    const Tensor noise = GumbelNoise({200000}, rng);
    const Tensor gates =
        GumbelSigmoid(at::full({200000}, logit, at::kDouble), noise, 0.4, /*offset=*/3);
    const double share = gates.gt(0.5).to(at::kDouble).mean().item<double>();
    EXPECT_NEAR(share, closed_form, logit == 0 ? 1e-8 : 0.0065);  // at 0 all start open
  }
}

TEST(GatesUnit, GumbelSigmoidIsHalfAtTheQuantileOfItsClosedForm) {
  // The gate is open where U > exp(-exp(l + b)): G = -ln(-ln U) = -(l + b) there. At l = 0 that is
  // the 1.9e-9 quantile, which no draw of a test reaches; at l = -3.3665 the median, G = 0.3665.
  for (const double logit : {0.0, -3.0, -3.3665, -4.0}) {
    const double u = std::exp(-std::exp(logit + 3));
    const Tensor noise = at::full({1}, -std::log(-std::log(u)), at::kDouble);
    const auto gate = [&](double moved) {
      return GumbelSigmoid(at::full({1}, logit + moved, at::kDouble), noise, 0.4, 3).item<double>();
    };
    EXPECT_NEAR(gate(0), 0.5, 1e-12);
    EXPECT_GT(gate(1e-6), 0.5);
    EXPECT_LT(gate(-1e-6), 0.5);
  }
  EXPECT_NEAR(-std::log(-std::log(0.5)), 0.3665, 5e-5);
}

TEST(GatesUnit, GumbelNoiseRepeatsForAStreamAndIsFinite) {
  Rng first(5, 0, "gumbel"), again(5, 0, "gumbel");
  const Tensor noise = GumbelNoise({64, 3}, first);
  EXPECT_TRUE(at::equal(noise, GumbelNoise({64, 3}, again)));
  EXPECT_TRUE(noise.isfinite().all().item<bool>());
}

TEST(GatesUnit, GumbelSigmoidMatchesFiniteDifferences) {
  Rng rng(2, 0, "gumbel");
  const Tensor noise = GumbelNoise({3}, rng);
  const Tensor logits = Leaf({-1.0, 0.3, 2.0});
  GumbelSigmoid(logits, noise, 0.4, 0.5).sum().backward();
  const double step = 1e-6;
  for (int64_t i = 0; i < 3; ++i) {
    Tensor up = logits.detach().clone(), down = logits.detach().clone();
    up[i] += step;
    down[i] -= step;
    const double slope =
        (GumbelSigmoid(up, noise, 0.4, 0.5).sum() - GumbelSigmoid(down, noise, 0.4, 0.5).sum())
            .item<double>() /
        (2 * step);
    EXPECT_NEAR(logits.grad()[i].item<double>(), slope, 1e-7);
  }
}

TEST(AdamUnit, FollowsTheAlgorithmByHand) {
  // Step 1: m^ = g, v^ = g^2, so each entry moves by lr * g / (|g| + eps).
  const Tensor x = Leaf({1.0, -2.0});
  Adam adam({x}, {.lr = 0.1});
  (x * at::tensor({3.0, -0.5}, at::kDouble)).sum().backward();
  adam.Step();
  EXPECT_NEAR(x[0].item<double>(), 1.0 - 0.1, 1e-8);
  EXPECT_NEAR(x[1].item<double>(), -2.0 + 0.1, 1e-8);
  EXPECT_FALSE(x.grad().defined());
  // Step 2 with gradient 1 on x0: m = .9*.3 + .1 = .37, v = .999*.009 + .001 = .009991,
  // m^ = .37 / .19, v^ = .009991 / .001999.
  (x * at::tensor({1.0, 0.0}, at::kDouble)).sum().backward();
  adam.Step();
  const double expected = 0.9 - 0.1 * (0.37 / 0.19) / (std::sqrt(0.009991 / 0.001999) + 1e-8);
  EXPECT_NEAR(x[0].item<double>(), expected, 1e-8);
  EXPECT_EQ(adam.state.step, 2);
}

TEST(AdamUnit, DecoupledDecayShrinksBeforeTheStep) {
  const Tensor x = Leaf({2.0});
  Adam adam({x}, {.lr = 0.1, .weight_decay = 0.5});
  (x * 4.0).sum().backward();
  adam.Step();
  EXPECT_NEAR(x[0].item<double>(), 2.0 * (1 - 0.05) - 0.1, 1e-8);
}

}  // namespace
}  // namespace espalier

#include "experiments/league/comparison.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>

#include "env/base/error.h"

namespace espalier {
namespace {

Tensor Values(const std::vector<double>& values) { return at::tensor(values, at::kDouble); }

TEST(ComparisonUnit, SpreadOverSeeds) {
  const Spread spread = SpreadOf({1, 2, 3, 6});
  EXPECT_DOUBLE_EQ(spread.mean, 3);
  EXPECT_NEAR(spread.deviation, std::sqrt(14.0 / 3), 1e-12);
  EXPECT_EQ(SpreadOf({5}).deviation, 0);
}

TEST(ComparisonUnit, SeedsAndSamplesJoinInQuadrature) {
  // Differences of the means 1, 2, 3 over seeds: s = 1, t(0.975, 2) = 4.30265, half = t s / sqrt 3.
  const std::vector<Tensor> a = {Values({1, 1}), Values({2, 2}), Values({3, 3})};
  const std::vector<Tensor> zero(3, Values({0, 0}));
  const PairedDifference seeds = Compare(a, zero);
  EXPECT_DOUBLE_EQ(seeds.mean, 2);
  EXPECT_NEAR(seeds.half_width, 4.302653 / std::sqrt(3.0), 1e-5);
  // One seed: samples alone, 1.96 s / sqrt n with s = 1 over 0, 1, 2.
  const PairedDifference samples = Compare({Values({0, 1, 2})}, {Values({0, 0, 0})});
  EXPECT_DOUBLE_EQ(samples.mean, 1);
  EXPECT_NEAR(samples.half_width, 1.959964 / std::sqrt(3.0), 1e-5);
  // Both: equal seeds leave the samples' part.
  const std::vector<Tensor> same(3, Values({0, 1, 2})), none(3, Values({0, 0, 0}));
  EXPECT_NEAR(Compare(same, none).half_width, 1.959964 / std::sqrt(3.0), 1e-5);
}

TEST(ComparisonUnit, VerdictsNeedMoreThanTheInterval) {
  EXPECT_EQ((PairedDifference{.mean = 0.5, .half_width = 0.6}).Verdict(), "tie");
  EXPECT_EQ((PairedDifference{.mean = 0.7, .half_width = 0.6}).Verdict(), "better");
  EXPECT_EQ((PairedDifference{.mean = -0.7, .half_width = 0.6}).Verdict(), "worse");
  EXPECT_EQ(Compare({Values({1, 1})}, {Values({1, 1})}).Verdict(), "tie");
}

TEST(ComparisonUnit, PairingTakesOutWhatBothShare) {
  // Noise common to both: the unpaired spread is huge, the paired one zero.
  const Tensor noise = at::arange(100, at::kDouble) * 10;
  const PairedDifference difference = Compare({noise + 0.1}, {noise});
  EXPECT_NEAR(difference.mean, 0.1, 1e-12);
  EXPECT_LT(difference.half_width, 1e-10);
  EXPECT_EQ(difference.Verdict(), "better");
}

TEST(ComparisonUnit, DifferentSamplesAreABug) {
  EXPECT_THROW(Compare({Values({1, 2})}, {Values({1, 2, 3})}), Error);
  EXPECT_THROW(Compare({Values({1, 2})}, {}), Error);
}

}  // namespace
}  // namespace espalier

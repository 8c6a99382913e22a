#include "env/cost/latency_model.h"

#include <gtest/gtest.h>

#include "env/base/rng.h"

namespace espalier {
namespace {

TEST(LatencyTableUnit, KeepsStairsAndIsLinearBetweenPoints) {
  const LatencyTable table{{{1, 16, 17, 32}}, {1, 1.5, 3, 3}};
  const auto at = [&](double width) { return table.At(std::span(&width, 1)); };
  EXPECT_EQ(at(16), 1.5);
  EXPECT_EQ(at(17), 3);
  EXPECT_EQ(at(25), 3);
  EXPECT_DOUBLE_EQ(at(8.5), 1.25);  // half way from 1 to 16
  EXPECT_DOUBLE_EQ(at(16.5), 2.25);
  EXPECT_EQ(at(0.2), 1);  // constant outside
  EXPECT_EQ(at(100), 3);
  EXPECT_EQ(LatencyTable({{}, {0.7}}).At({}), 0.7);
}

TEST(LatencyTableUnit, IsBilinearInTwoWidths) {
  // ms = 10 * row + column at the corners: bilinear gives it everywhere inside.
  const LatencyTable table{{{1, 3}, {2, 4, 8}}, {12, 14, 18, 32, 34, 38}};
  Rng rng(1);
  for (int i = 0; i < 20; ++i) {
    const std::array<double, 2> widths = {rng.Uniform(1, 3), rng.Uniform(2, 8)};
    EXPECT_NEAR(table.At(widths), 10 * widths[0] + widths[1], 1e-12);
  }
}

/// Two groups of 32 and 16 units. Op 0 reads both, twice; op 1 is light and follows group 1; op 2
/// is constant.
LatencyModel Sample() {
  LatencyModel::Op both;
  both.table = {{{1, 32}, {1, 16}}, {1, 2, 3, 4}};
  both.widths = {{{1, {0}}}, {{1, {1}}}};
  both.heavy = true;
  LatencyModel::Op light;
  light.table = {{{16, 256}}, {0.1, 0.5}};
  light.widths = {{{8, {1}}, {1, {0, 1}}}};  // 8 b + a b / 4
  LatencyModel::Op fixed;
  fixed.table = {{}, {0.25}};
  return {{32, 16}, {{0, {{.group = 0}}}, {0, {{.group = 1}}}}, {both, light, fixed, both}};
}

TEST(LatencyModelUnit, AddsUpWhatTheOpsTake) {
  const LatencyModel model = Sample();
  EXPECT_EQ(model.ops().size(), 3u);  // the first and the last are the same
  const std::vector<double> full = {32, 16};
  const auto sums = model.SumsAt(full);
  EXPECT_EQ(sums.heavy_ms, 8);
  EXPECT_EQ(sums.light_ms, 0.5 + 0.25);  // 8 * 16 + 32 * 16 is beyond the grid
  const std::vector<double> small = {1, 1};
  EXPECT_EQ(model.SumsAt(small).heavy_ms, 2);
  EXPECT_EQ(model.SumsAt(small).light_ms, 0.1 + 0.25);
  LatencyModel corrected = model;
  corrected.Correct({.heavy = 2, .light = 10, .overhead_ms = 0.5});
  EXPECT_DOUBLE_EQ(corrected.Ms(small), 2 * 2 + 10 * 0.35 + 0.5);
}

TEST(LatencyModelUnit, SlopeIsThatOfAWindowOfEightUnits) {
  LatencyModel::Op stairs;
  stairs.table = {{{1, 16, 17, 32}}, {1, 1, 2, 2}};
  stairs.widths = {{{1, {0}}}};
  stairs.heavy = true;
  stairs.times = 3;
  LatencyModel model({32, 8}, {{0, {{.group = 0}}}}, {stairs});
  model.Correct({.heavy = 0.5, .light = 1, .overhead_ms = 1});
  const auto slope = [&](double kept) { return model.Slope(std::vector<double>{kept, 4}).front(); };
  EXPECT_DOUBLE_EQ(slope(16), 1.5 / 16);  // a whole stair within 8 to each side
  EXPECT_EQ(slope(5), 0);                 // 1 to 13: flat
  EXPECT_DOUBLE_EQ(slope(12), 1.5 / 16);  // 4 to 20
  EXPECT_EQ(slope(32), 0);                // 24 to 32
  EXPECT_DOUBLE_EQ(slope(24), 1.5 / 16);  // 16 to 32
  EXPECT_EQ(model.Slope(std::vector<double>{16, 4}).back(), 0);
}

TEST(CorrectionUnit, FindsTheCoefficientsThatMadeTheNumbers) {
  std::vector<LatencyModel::Sums> sums;
  std::vector<double> measured;
  Rng rng(2);
  for (int i = 0; i < 8; ++i) {
    sums.push_back({rng.Uniform(1, 5), rng.Uniform(0.2, 2)});
    measured.push_back(0.8 * sums.back().heavy_ms + 1.5 * sums.back().light_ms + 0.3);
  }
  const auto fit = FitCorrection(sums, measured);
  EXPECT_NEAR(fit.heavy, 0.8, 1e-9);
  EXPECT_NEAR(fit.light, 1.5, 1e-9);
  EXPECT_NEAR(fit.overhead_ms, 0.3, 1e-9);
}

TEST(CorrectionProperty, NoCoefficientIsNegativeAndNoNonNegativeOneIsBetter) {
  for (uint64_t seed = 0; seed < 30; ++seed) {
    SCOPED_TRACE(seed);
    Rng rng(seed);
    std::vector<LatencyModel::Sums> sums;
    std::vector<double> measured;
    for (int i = 0; i < 6; ++i) {
      sums.push_back({rng.Uniform(1, 5), rng.Uniform(0.2, 2)});
      measured.push_back(rng.Uniform(1, 8));  // nothing to do with the sums
    }
    const auto error = [&](const LatencyModel::Correction& c) {
      double total = 0;
      for (size_t i = 0; i < sums.size(); ++i) {
        const double ms = c.heavy * sums[i].heavy_ms + c.light * sums[i].light_ms + c.overhead_ms;
        total += (ms / measured[i] - 1) * (ms / measured[i] - 1);
      }
      return total;
    };
    const auto fit = FitCorrection(sums, measured);
    EXPECT_GE(std::min({fit.heavy, fit.light, fit.overhead_ms}), 0);
    for (int i = 0; i < 50; ++i) {
      const double factor = std::max(0.0, fit.heavy + 0.1 * rng.Normal());
      const double overhead = std::max(0.0, fit.overhead_ms + 0.1 * rng.Normal());
      EXPECT_LE(error(fit), error({factor, factor, overhead}) + 1e-12);
    }
  }
}

TEST(CorrectionUnit, NoiseDoesNotTradeOneKindOfOpForTheOther) {
  // Both sums follow the width alike; 3 % of noise in what was measured.
  std::vector<LatencyModel::Sums> sums;
  std::vector<double> measured;
  Rng rng(5);
  for (int i = 0; i < 12; ++i) {
    const double width = rng.Uniform(0.2, 1);
    sums.push_back({4 * width, 0.5 * width});
    measured.push_back(1.5 * 4.5 * width * (1 + 0.03 * rng.Normal()));
  }
  const auto fit = FitCorrection(sums, measured);
  EXPECT_EQ(fit.heavy, fit.light);
  EXPECT_NEAR(fit.heavy, 1.5, 0.1);
}

TEST(CorrectionUnit, OneMeasurementGivesAFactorAndNoneLeavesAll) {
  const std::vector<LatencyModel::Sums> one = {{2, 2}};
  const auto fit = FitCorrection(one, std::vector<double>{2});
  EXPECT_DOUBLE_EQ(fit.heavy, 0.5);
  EXPECT_DOUBLE_EQ(fit.light, 0.5);
  EXPECT_EQ(fit.overhead_ms, 0);
  EXPECT_EQ(FitCorrection({}, {}).heavy, 1);
}

}  // namespace
}  // namespace espalier

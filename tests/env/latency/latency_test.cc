#include "env/latency/latency.h"

#include <gtest/gtest.h>

#include "env/base/error.h"
#include "env/base/interrupt.h"
#include "env/cost/budget.h"
#include "env/space/plan.h"
#include "tests/env/latency/fake_meter.h"
#include "tests/env/latency/networks.h"
#include "tests/support/temp_folder.h"

namespace espalier {
namespace {

MeasuredLatency Measure(const Space& space, FakeMeter& meter, LatencyCache& cache,
                        const LatencyConfig& config = {}) {
  return MeasureLatency(space, config, at::kCPU, meter, cache);
}

std::vector<double> Full(const Space& space) {
  std::vector<double> kept;
  for (const Group& group : space.groups()) kept.push_back(static_cast<double>(group.units));
  return kept;
}

TEST(LatencyUnit, StairsOfTheDeviceAreStairsOfTheModel) {
  Builder b("two", 1);
  const ValueId x = b.Relu(b.Conv2d("a", b.Input("x", {2, 3, 8, 8}), 3, 40, {.padding = 1}));
  const Space space = BuildSpace(b.Finish({b.Linear("fc", b.Flatten(b.GlobalAvgPool(x)), 40, 5)}));
  FakeMeter meter(BlockedTime);
  LatencyCache cache{nlohmann::json()};
  const auto measured = Measure(space, meter, cache, {.networks = 0});
  EXPECT_TRUE(measured.left_out.empty()) << measured.left_out.front();
  const auto ms = [&](double kept) { return measured.model->Ms(std::vector<double>{kept}); };
  // From 16 to 17 channels the convolution takes one block more, 0.05 ms; from 17 to 32 only the
  // elements come to it.
  EXPECT_NEAR(ms(17) - ms(16), 0.05 + (ms(32) - ms(17)) / 15, 1e-9);
  EXPECT_LT(ms(32) - ms(17), 0.025);
  EXPECT_NEAR(ms(33) - ms(32), 0.05 + (ms(32) - ms(17)) / 15, 1e-9);
}

TEST(LatencyUnit, WholeNetworksCorrectTheSumAndTheErrorIsThatOfOthers) {
  for (const Network& network : {ConvNet(), Attention()}) {
    SCOPED_TRACE(network.name);
    const Space space = BuildSpace(network);
    FakeMeter meter(SmoothTime, 1.4, 0.3);
    LatencyCache cache{nlohmann::json()};
    const auto measured = Measure(space, meter, cache, {.networks = 8, .held_out = 5});
    EXPECT_EQ(meter.networks, 3 * (8 + 5));  // in three rounds
    EXPECT_EQ(measured.checks.size(), 5u);
    // Times are products of two widths at most here, so nothing is lost between grid points.
    EXPECT_LT(measured.worst_error, 0.02);
    EXPECT_LE(measured.median_error, measured.worst_error);
    std::vector<double> errors;
    for (const auto& [predicted, real] : measured.checks)
      errors.push_back(std::abs(predicted / real - 1));
    std::sort(errors.begin(), errors.end());
    EXPECT_DOUBLE_EQ(measured.median_error, errors[2]);
    EXPECT_DOUBLE_EQ(measured.worst_error, errors[4]);
    EXPECT_NEAR(measured.model->Ms(Full(space)),
                MeasureNetworks({&network}, {}, at::kCPU, meter)[0], 0.02);
    const auto fit = measured.model->correction();
    const auto sums = measured.model->SumsAt(Full(space));
    EXPECT_NEAR(fit.heavy * sums.heavy_ms + fit.light * sums.light_ms + fit.overhead_ms,
                1.4 * (sums.heavy_ms + sums.light_ms) + 0.3, 0.02);
  }
}

TEST(LatencyUnit, ABranchThatGoesTakesItsTimeAlong) {
  for (const Network& network : {ConvNet(), BuildModel("resnet20", {.shortcut = "projection"})}) {
    SCOPED_TRACE(network.name);
    const Space space = BuildSpace(network, {.depth = true});
    ASSERT_FALSE(space.branches().empty());
    FakeMeter meter(SmoothTime);
    LatencyCache cache{nlohmann::json()};
    const auto measured = Measure(space, meter, cache, {.networks = 0, .held_out = 6});
    EXPECT_LT(measured.worst_error, 0.05);
    const auto slope = measured.model->Slope(Full(space));
    for (const Branch& branch : space.branches()) {
      const auto group = static_cast<size_t>(branch.group);
      std::vector<double> without = Full(space);
      without[group] = 0;
      const double saved = measured.model->Ms(Full(space)) - measured.model->Ms(without);
      Selection selection = KeepAll(space);
      selection[group].clear();
      const Network cut = Cut(space.network(), MakePlan(space, selection));
      const auto ms = MeasureNetworks({&space.network(), &cut}, {}, at::kCPU, meter);
      EXPECT_NEAR(saved, ms[0] - ms[1], 0.02 * ms[0]);
      EXPECT_NEAR(slope[group], saved, 1e-9);
    }
  }
}

/// Every so many measurements of single ops take a hundred times as long.
class DisturbedMeter : public FakeMeter {
 public:
  DisturbedMeter() : FakeMeter(SmoothTime) {}
  double Milliseconds(const Network& network, const std::vector<Tensor>& inputs,
                      const std::vector<std::string>& fresh) override {
    const double ms = FakeMeter::Milliseconds(network, inputs, fresh);
    return inputs.empty() && calls % 7 == 3 ? 100 * ms : ms;
  }
};

TEST(LatencyUnit, WhatABusyMachineDisturbedIsMeasuredAgain) {
  const Space space = BuildSpace(ConvNet());
  LatencyCache quiet{nlohmann::json()}, busy{nlohmann::json()};
  FakeMeter meter(SmoothTime);
  DisturbedMeter disturbed;
  const LatencyConfig config{.networks = 0, .held_out = 0};
  const auto wanted = Measure(space, meter, quiet, config);
  const auto got = Measure(space, disturbed, busy, config);
  EXPECT_GT(got.repeated, wanted.repeated);
  EXPECT_EQ(got.measured, wanted.measured);
  for (const double share : {0.25, 0.5, 0.75}) {
    std::vector<double> kept;
    for (const double full : Full(space)) kept.push_back(std::round(share * full));
    EXPECT_NEAR(got.model->Ms(kept) / wanted.model->Ms(kept), 1, 0.5) << share;
  }
}

/// Every fifth measurement of a whole network takes ten times as long.
class SpikyMeter : public FakeMeter {
 public:
  SpikyMeter() : FakeMeter(SmoothTime, 1.4, 0.3) {}
  double Milliseconds(const Network& network, const std::vector<Tensor>& inputs,
                      const std::vector<std::string>& fresh) override {
    const double ms = FakeMeter::Milliseconds(network, inputs, fresh);
    return !inputs.empty() && networks % 5 == 2 ? 10 * ms : ms;
  }
};

TEST(LatencyUnit, ADisturbedNetworkIsMeasuredInAnotherRound) {
  const Space space = BuildSpace(ConvNet());
  SpikyMeter meter;
  LatencyCache cache{nlohmann::json()};
  const auto measured = Measure(space, meter, cache, {.networks = 8, .held_out = 5});
  EXPECT_LT(measured.worst_error, 0.02);
}

TEST(LatencyUnit, WithoutWholeNetworksTheSumStandsAndTheErrorSaysSo) {
  const Space space = BuildSpace(ConvNet());
  FakeMeter meter(SmoothTime, 2, 0);
  LatencyCache cache{nlohmann::json()};
  const auto measured = Measure(space, meter, cache, {.networks = 0, .held_out = 3});
  EXPECT_NEAR(measured.median_error, 0.5, 0.02);  // everything takes twice the sum
}

TEST(LatencyUnit, ASecondRunMeasuresNothingAndAnotherDeviceEverything) {
  const TempFolder folder;
  const Space space = BuildSpace(ConvNet());
  LatencyConfig config{.networks = 3, .held_out = 2, .cache = folder.path().string()};
  const auto run = [&](const LatencyConfig& with, int64_t& asked) {
    FakeMeter meter(BlockedTime, 1.1, 0.1);
    LatencyCache cache = OpenLatencyCache(with, at::kCPU);
    const auto measured = Measure(space, meter, cache, with);
    asked = meter.calls + meter.networks;
    EXPECT_EQ(measured.measured + measured.repeated, meter.calls);
    return measured.model->Ms(Full(space));
  };
  int64_t first = 0, second = 0, other = 0;
  const double ms = run(config, first);
  EXPECT_GT(first, 20);
  EXPECT_EQ(run(config, second), ms);
  EXPECT_EQ(second, 0);
  config.batch = 4;
  EXPECT_GT(run(config, other), ms);
  EXPECT_EQ(other, first);
}

TEST(LatencyUnit, SameWorkIsMeasuredOnce) {
  const Space space = BuildSpace(BuildModel("resnet20"));
  FakeMeter meter(BlockedTime);
  LatencyCache cache{nlohmann::json()};
  const auto measured = Measure(space, meter, cache, {.networks = 0, .held_out = 1});
  EXPECT_EQ(measured.measured + measured.repeated, meter.calls);
  EXPECT_LT(3 * measured.measured, 2 * measured.points);
}

TEST(LatencyUnit, StopsWhenAskedToAndKeepsWhatItHas) {
  const TempFolder folder;
  const Space space = BuildSpace(ConvNet());
  const LatencyConfig config{.networks = 2, .held_out = 1, .cache = folder.path().string()};
  int64_t asked = 0;
  FakeMeter stopping([&](const Op&, const auto&, const auto&) {
    if (++asked == 10) RequestInterrupt();
    return 1.0;
  });
  LatencyCache cache = OpenLatencyCache(config, at::kCPU);
  EXPECT_THROW(Measure(space, stopping, cache, config), Error);
  ClearInterrupt();
  EXPECT_GE(OpenLatencyCache(config, at::kCPU).size(), 10u);
}

/// Concatenations do not run alone.
class RefusesCat final : public FakeMeter {
 public:
  RefusesCat() : FakeMeter(SmoothTime) {}
  double Milliseconds(const Network& network, const std::vector<Tensor>& inputs,
                      const std::vector<std::string>& fresh) override {
    if (inputs.empty() && network.graph.ops.front().target() == "aten::cat")
      throw Error(ErrorKind::kModel, "not like this");
    return FakeMeter::Milliseconds(network, inputs, fresh);
  }
};

TEST(LatencyUnit, AnOpThatDoesNotRunAloneIsListedAndTheRestGoesOn) {
  const Space space = BuildSpace(ConvNet());
  RefusesCat meter;
  LatencyCache cache{nlohmann::json()};
  const auto measured = Measure(space, meter, cache);
  ASSERT_EQ(measured.left_out.size(), 1u);
  EXPECT_NE(measured.left_out[0].find("aten::cat"), std::string::npos);
  EXPECT_NE(measured.left_out[0].find("not like this"), std::string::npos);
  EXPECT_GT(measured.model->Ms(Full(space)), 0);
}

TEST(LatencyBudgetProperty, DecisionsAreProjectedUnderAMeasuredBound) {
  const Space space = BuildSpace(BuildModel("resnet20"), {.decouple_residuals = true});
  FakeMeter meter(BlockedTime, 1.2, 0.05);
  LatencyCache cache{nlohmann::json()};
  CostModel cost(space);
  cost.UseLatency(Measure(space, meter, cache).model);
  BudgetConfig config;
  config.latency_ms = Quantity{0.6, true};
  config.macs = Quantity{0.7, true};
  const Budget budget(cost, config);
  for (uint64_t seed = 0; seed < 10; ++seed) {
    SCOPED_TRACE(seed);
    Rng rng(seed);
    Decision decision;
    for (size_t g = 0; g < cost.units().size(); ++g) decision.push_back(rng.Uniform(0.1, 1));
    const auto kept = budget.Project(decision);
    const std::vector<double> counts(kept.begin(), kept.end());
    EXPECT_LE(cost.Evaluate(counts).latency_ms, budget.bounds()[1].limit);
    EXPECT_LE(cost.Evaluate(counts).macs, budget.bounds()[0].limit);
  }
}

}  // namespace
}  // namespace espalier

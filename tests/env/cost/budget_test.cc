#include "env/cost/budget.h"

#include <gtest/gtest.h>

#include "env/base/error.h"
#include "env/base/rng.h"
#include "env/graph/builder.h"
#include "env/models/models.h"

namespace espalier {
namespace {

/// 3 -> 40 -> 24 -> 5: groups "a" of 40 units and "b" of 24.
Space TwoGroups() {
  Builder b("two");
  const ValueId x = b.Relu(b.Linear("a", b.Input("x", {2, 3}), 3, 40));
  return BuildSpace(b.Finish({b.Linear("c", b.Relu(b.Linear("b", x, 40, 24)), 24, 5)}));
}

/// Milliseconds by the units of group a alone: 1 up to 16, 2 up to 32, 3 above.
std::shared_ptr<const LatencyModel> Stairs() {
  LatencyModel::Op op;
  op.table = {{{1, 16, 17, 32, 33, 40}}, {1, 1, 2, 2, 3, 3}};
  op.widths = {{{1, {0}}}};
  return std::make_shared<LatencyModel>(std::vector<int64_t>{40, 24},
                                        std::vector<AxisCount>{{0, {{.group = 0}}}},
                                        std::vector<LatencyModel::Op>{op});
}

std::string MessageOf(const CostModel& cost, const BudgetConfig& config, ErrorKind kind) {
  try {
    Budget budget(cost, config);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind);
    return error.message() + error.hint();
  }
  ADD_FAILURE() << "no error";
  return "";
}

TEST(WidthLimitsUnit, PatternsTakeThePlaceOfTheCommonLimitsAndTheLastOneCounts) {
  const CostModel cost(BuildSpace(BuildModel("resnet20"), {.decouple_residuals = true}));
  BudgetConfig config;
  config.min_keep = 0.25;
  config.max_keep = 0.75;
  config.keep = {"layer3.*: 0.5..", "layer3.2.*:..0.25", "layer1.0.conv1 : 1..1"};
  const WidthLimits limits = LimitsOf(cost, config);
  for (size_t g = 0; g < cost.units().size(); ++g) {
    const std::string& name = cost.group_names()[g];
    const int64_t units = cost.units()[g];
    double low = 0.25, high = 0.75;
    if (name.starts_with("layer3.")) low = 0.5, high = 1;
    if (name.starts_with("layer3.2.")) low = 0, high = 0.25;
    if (name == "layer1.0.conv1") low = high = 1;
    // All widths here are multiples of 4: the ratios are exact.
    EXPECT_EQ(limits.least[g], std::max<int64_t>(1, std::llround(low * units))) << name;
    EXPECT_EQ(limits.most[g], std::llround(high * units)) << name;
  }
  config.macs = Quantity{0.5, true};
  const Budget budget(cost, config);
  const auto kept = budget.Project(Decision(cost.units().size(), 0.01));
  for (size_t g = 0; g < kept.size(); ++g) {
    EXPECT_GE(kept[g], limits.least[g]);
    EXPECT_LE(kept[g], limits.most[g]);
  }
}

TEST(WidthLimitsUnit, RefusesWhatIsNoRangeAndPatternsThatMatchNothing) {
  const CostModel cost(TwoGroups());
  for (const char* entry : {"a", "a: 0.5", "a: 0.9..0.5", "a: -1..", "a: 0..2", "a: x..y",
                            "a: 0..0", ": 0.5..", "", "a 0.1..0.2"}) {
    BudgetConfig config;
    config.keep = {entry};
    const std::string message = MessageOf(cost, config, ErrorKind::kConfig);
    EXPECT_NE(message.find("budget.keep"), std::string::npos) << message;
    EXPECT_NE(message.find(Str("'", entry, "'")), std::string::npos) << message;
  }
  BudgetConfig config;
  config.keep = {"aa: 0.5.."};
  EXPECT_NE(MessageOf(cost, config, ErrorKind::kConfig).find("'aa' matches no group"),
            std::string::npos);
}

TEST(ReachUnit, LeastAndMostFollowTheLimits) {
  const CostModel cost(TwoGroups());
  BudgetConfig config;
  config.keep = {"a: 0.5..0.75", "b: 0.25.."};
  config.params = Quantity{100, false};
  const auto reach = ReachOf(cost, config);
  ASSERT_EQ(reach.size(), 3u);  // latency was not measured
  // a 20, b 6: 3 * 20 + 20 * 6 + 6 * 5; a 30, b 24: 3 * 30 + 30 * 24 + 24 * 5.
  EXPECT_EQ(reach[0].least, 60 + 120 + 30);
  EXPECT_EQ(reach[0].most, 90 + 720 + 120);
  EXPECT_EQ(reach[0].full, 120 + 960 + 120);
  EXPECT_TRUE(reach[0].met());
  EXPECT_EQ(reach[1].least, 210 + 20 + 6 + 5);
  EXPECT_FALSE(reach[1].met());
  const std::string message = MessageOf(cost, config, ErrorKind::kBudget);
  EXPECT_NE(message.find("budget.params = 100"), std::string::npos) << message;
  EXPECT_NE(message.find("the least reachable is 241"), std::string::npos) << message;
}

TEST(ReachUnit, NamesEveryBoundThatCannotBeMet) {
  const CostModel cost(TwoGroups());
  BudgetConfig config;
  config.macs = Quantity{1, false};
  config.params = Quantity{2, false};
  config.activation_bytes = Quantity{0.9, true};
  const std::string message = MessageOf(cost, config, ErrorKind::kBudget);
  EXPECT_NE(message.find("budget.macs"), std::string::npos);
  EXPECT_NE(message.find("budget.params"), std::string::npos);
  EXPECT_EQ(message.find("budget.activation_bytes"), std::string::npos);
}

TEST(LatencyBudgetUnit, NeedsAMeasurement) {
  BudgetConfig config;
  config.latency_ms = Quantity{0.5, true};
  EXPECT_NE(MessageOf(CostModel(TwoGroups()), config, ErrorKind::kConfig).find("not measured"),
            std::string::npos);
}

TEST(LatencyBudgetUnit, ProjectionFillsTheStairItMayStandOn) {
  CostModel cost(TwoGroups());
  cost.UseLatency(Stairs());
  EXPECT_EQ(cost.Full().latency_ms, 3);
  BudgetConfig config;
  config.latency_ms = Quantity{0.7, true};  // 2.1 ms
  const Budget budget(cost, config);
  ASSERT_EQ(budget.bounds().size(), 1u);
  EXPECT_EQ(budget.bounds()[0].kind, CostKind::kLatency);
  EXPECT_NEAR(budget.bounds()[0].limit, 2.1, 1e-12);
  EXPECT_EQ(budget.bounds()[0].least, 1);
  // 32 units are the end of the second stair; b costs nothing and stays.
  EXPECT_EQ(budget.Project({1, 1}), (std::vector<int64_t>{32, 24}));
  EXPECT_EQ(budget.Project({0.1, 1}), (std::vector<int64_t>{32, 24}));
  config.latency_ms = Quantity{1.5, false};
  EXPECT_EQ(Budget(cost, config).Project({1, 1}), (std::vector<int64_t>{16, 24}));
  config.latency_ms = Quantity{0.9, false};
  const std::string message = MessageOf(cost, config, ErrorKind::kBudget);
  EXPECT_NE(message.find("(0.9 ms) cannot be met: the least reachable is 1 ms"), std::string::npos)
      << message;
}

TEST(LatencyBudgetUnit, LeapsOverAWidthThatIsSlowerThanTheNextMultiple) {
  CostModel cost(TwoGroups());
  LatencyModel::Op op;
  // 17 to 31 fall back to slow kernels; 32 is as good as 16.
  op.table = {{{1, 16, 17, 31, 32, 33, 40}}, {1, 1, 5, 5, 1.5, 6, 6}};
  op.widths = {{{1, {0}}}};
  cost.UseLatency(std::make_shared<LatencyModel>(cost.units(),
                                                 std::vector<AxisCount>{{0, {{.group = 0}}}},
                                                 std::vector<LatencyModel::Op>{op}));
  BudgetConfig config;
  config.latency_ms = Quantity{2, false};
  EXPECT_EQ(Budget(cost, config).Project({1, 1}), (std::vector<int64_t>{32, 24}));
}

TEST(LatencyBudgetProperty, ProjectionHoldsAllBoundsTogether) {
  CostModel cost(TwoGroups());
  cost.UseLatency(Stairs());
  for (uint64_t seed = 0; seed < 30; ++seed) {
    SCOPED_TRACE(seed);
    Rng rng(seed);
    BudgetConfig config;
    config.latency_ms = Quantity{rng.Uniform(0.4, 1), true};
    config.macs = Quantity{rng.Uniform(0.1, 1), true};
    config.params = Quantity{rng.Uniform(0.1, 1), true};
    config.round_to = 1 + static_cast<int64_t>(rng.Index(5));
    const Budget budget(cost, config);
    const auto kept = budget.Project({rng.Uniform(0.01, 1), rng.Uniform(0.01, 1)});
    EXPECT_TRUE(budget.Feasible(kept));
    // One step more of any group breaks a bound, or a limit.
    for (size_t g = 0; g < kept.size(); ++g) {
      auto more = kept;
      more[g] = std::min(cost.units()[g], kept[g] + budget.limits().step[g]);
      EXPECT_TRUE(more[g] == kept[g] || !budget.Feasible(more));
    }
  }
}

TEST(BudgetProperty, ActivationsOfTheCutNetworkStayWithinTheirBound) {
  const Space space = BuildSpace(BuildModel("resnet20"));
  const CostModel cost(space);
  const double full = cost.Full().activation_bytes;
  for (const double share : {0.3, 0.5, 0.8}) {
    BudgetConfig config;
    config.activation_bytes = Quantity{share, true};
    const Budget budget(cost, config);
    Rng rng(1);
    for (int trial = 0; trial < 5; ++trial) {
      SCOPED_TRACE(Str(share, ", trial ", trial));
      Decision decision;
      for (size_t g = 0; g < cost.units().size(); ++g) decision.push_back(rng.Uniform(0.1, 1));
      const std::vector<int64_t> kept = budget.Project(decision);
      const Network cut = Cut(space.network(), MakePlan(space, SelectFirst(space, kept)));
      const double counted = CostModel(BuildSpace(cut)).Full().activation_bytes;
      EXPECT_LE(counted, share * full);
      EXPECT_GT(counted, 0.95 * share * full);
    }
  }
}

}  // namespace
}  // namespace espalier

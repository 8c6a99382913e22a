#include "experiments/latency_options.h"

#include <gtest/gtest.h>

#include "env/base/error.h"
#include "env/graph/builder.h"
#include "experiments/budget_options.h"
#include "experiments/report_measured.h"

namespace espalier {
namespace {

using nlohmann::ordered_json;

TEST(LatencyVerdictUnit, SpeaksWhenLatencyDoesNotFollowTheMacs) {
  // Half of the MACs, a tenth of the time.
  const std::string verdict = LatencyVerdict(100e6, 50e6, 10, 9);
  EXPECT_NE(verdict.find("MACs fell by 50.0 %"), std::string::npos) << verdict;
  EXPECT_NE(verdict.find("by 10.0 % only"), std::string::npos) << verdict;
  EXPECT_NE(LatencyVerdict(100e6, 50e6, 10, 11).find("rose by 10.0 %"), std::string::npos);
  EXPECT_EQ(LatencyVerdict(100e6, 50e6, 10, 7), "");     // 30 % for 50 %: it follows
  EXPECT_EQ(LatencyVerdict(100e6, 95e6, 10, 10.5), "");  // hardly anything was cut
}

TEST(LatencyTextUnit, CardAndLineHaveBothFiguresAndTheVerdict) {
  const ordered_json change = {{"measured", {10.0, 9.0}},
                               {"predicted", {9.8, 8.7}},
                               {"median_error", 0.031},
                               {"held_out", 10},
                               {"batch", 1},
                               {"threads", 2},
                               {"precision", "fp32"},
                               {"verdict", "Does <not> follow."}};
  EXPECT_EQ(LatencyChangeText(change),
            "10.00 ms -> 9.00 ms measured (90.0 %), 9.80 ms -> 8.70 ms predicted; batch 1, 2 "
            "threads, fp32");
  const std::string card = LatencyCard(change);
  for (const char* part :
       {"9.00 ms", "8.70 ms", "3.1 %", "median of 10", "Does &lt;not&gt; follow."})
    EXPECT_NE(card.find(part), std::string::npos) << part << "\n" << card;
  ordered_json measured = change;
  for (const char* key : {"predicted", "median_error", "held_out"}) measured.erase(key);
  EXPECT_EQ(LatencyChangeText(measured),
            "10.00 ms -> 9.00 ms measured (90.0 %); batch 1, 2 threads, fp32");
  EXPECT_EQ(LatencyCard(measured).find("predict"), std::string::npos);
}

TEST(ReachTextUnit, HasALineForEveryCostAndSaysWhatCannotBeMet) {
  Builder b("two");
  const ValueId x = b.Relu(b.Linear("a", b.Input("x", {2, 3}), 3, 40));
  const Space space = BuildSpace(b.Finish({b.Linear("c", x, 40, 5)}));
  const CostModel cost(space);
  BudgetConfig config;
  config.macs = Quantity{0.5, true};
  config.params = Quantity{10, false};
  config.min_keep = 0.5;
  const ordered_json reach = ReachToJson(cost, config);
  // MACs: 3 * 40 + 40 * 5; half of it at 20 units.
  EXPECT_EQ(reach[0]["full"], 320);
  EXPECT_EQ(reach[0]["least"], 160);
  EXPECT_EQ(reach[0]["limit"], 160);
  EXPECT_EQ(reach[0]["met"], true);
  EXPECT_EQ(reach[1]["met"], false);
  const std::string text = ReachText(reach);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1 + 3);
  EXPECT_NE(text.find("can be met"), std::string::npos);
  EXPECT_NE(text.find("CANNOT be met"), std::string::npos);
}

TEST(CostTextUnit, AmountsOfLatencyAreMilliseconds) {
  EXPECT_EQ(CostText("latency_ms", 0.04217), "0.042 ms");
  EXPECT_EQ(CostText("latency_ms", 12.345), "12.35 ms");
  EXPECT_EQ(CostText("macs", 126.55e6), "126.55 M");
}

}  // namespace
}  // namespace espalier

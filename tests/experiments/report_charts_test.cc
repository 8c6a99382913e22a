#include "experiments/report_charts.h"

#include <gtest/gtest.h>

#include <limits>

namespace espalier {
namespace {

TEST(ReportChartsUnit, TicksAreRoundAndInside) {
  EXPECT_EQ(Ticks(0, 10, 5), (std::vector<double>{0, 2, 4, 6, 8, 10}));
  EXPECT_EQ(Ticks(0.13, 0.52, 4).front(), 0.2);  // steps of 0.1
  EXPECT_EQ(Ticks(3, 3, 4), std::vector<double>{3});
}

TEST(ReportChartsUnit, TicksBetweenWholeNumbersAreShownInFull) {
  const auto chart = LineChart({{"loss", {{1, 0}, {2, 10}}}}, {.title = "t", .x_label = "step"});
  for (const char* tick : {">0<", ">2.5<", ">5.0<", ">7.5<", ">10.0<"})
    EXPECT_NE(chart.find(tick), std::string::npos) << tick;
  const auto quarters = LineChart({{"loss", {{1, 0}, {2, 1}}}}, {.title = "t", .x_label = "step"});
  EXPECT_NE(quarters.find(">0.25<"), std::string::npos);
}

TEST(ReportChartsUnit, TextIsEscaped) {
  EXPECT_EQ(Html("<a href=\"x\">&'"), "&lt;a href=&quot;x&quot;&gt;&amp;&#39;");
  EXPECT_EQ(LineChart({{"<b>", {{1, 2}, {2, 3}}}}, {.title = "t", .x_label = "x"}).find("<b>"),
            std::string::npos);
}

TEST(ReportChartsUnit, NonFiniteValuesBreakTheLine) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const auto chart =
      LineChart({{"loss", {{1, 1}, {2, nan}, {3, 2}}}}, {.title = "t", .x_label = "step"});
  EXPECT_EQ(chart.find("nan"), std::string::npos);
  const auto path = chart.substr(chart.find(" d=\""), 60);
  EXPECT_EQ(std::count(path.begin(), path.end(), 'M'), 2) << path;
  EXPECT_EQ(LineChart({{"loss", {{1, nan}}}}, {}), "");
}

TEST(ReportChartsUnit, NeighboursOfOneRunShareACaption) {
  const auto html = Columns(
      {{"layer1", "layer1.0", 1, 2}, {"layer1", "layer1.1", 2, 2}, {"layer2", "layer2.0", 0, 2}});
  EXPECT_NE(html.find("flex-grow:2"), std::string::npos);
  EXPECT_NE(html.find("layer1.0: 1 of 2 kept"), std::string::npos);
  EXPECT_NE(html.find("height:50.0%"), std::string::npos);
}

TEST(ReportChartsUnit, WhiskersStayInsideTheTrack) {
  const auto html = BarRows({{"a", 0.99, 0.05, "99 %", "ours"}}, 1);
  EXPECT_NE(html.find("left:94.00%;width:calc(100.00% - 94.00%)"), std::string::npos) << html;
}

}  // namespace
}  // namespace espalier

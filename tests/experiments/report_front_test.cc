#include "experiments/report_front.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace espalier {
namespace {

using nlohmann::ordered_json;

ordered_json Row(double macs, ordered_json forecast, ordered_json low, ordered_json high) {
  return {{"macs", macs}, {"params", 4e5}, {"forecast", forecast}, {"low", low}, {"high", high}};
}

/// As the searching stage leaves it.
ordered_json Search(const std::string& metric, int64_t unseen, std::vector<ordered_json> rows) {
  return {{"info",
           {{"metric", metric},
            {"unseen", unseen},
            {"forecast_on", unseen > 0 ? "400 unseen validation samples" : "samples it saw"},
            {"front", rows}}}};
}

TEST(ReportFrontUnit, ShowsEveryPlanWithItsIntervalLoosestFirst) {
  ordered_json tight = Row(25e6, 0.5, 0.45, 0.55), loose = Row(75e6, 0.875, 0.84, 0.9);
  tight["budget"] = 0.25, loose["budget"] = 0.75;
  const std::string html =
      FrontSection(Search("accuracy", 400, {tight, loose, Row(50e6, 0.7, 0.66, 0.74)}), 1e8);
  const size_t first = html.find("front-0.75.plan.json"), own = html.find("best/plan.json"),
               last = html.find("front-0.25.plan.json");
  EXPECT_LT(first, own);
  EXPECT_LT(own, last);
  EXPECT_NE(last, std::string::npos);
  for (const char* part : {"87.50 %", "84.00 % to 90.00 %", "75.0 %", "25.00 M", "the run's own",
                           "400 unseen validation samples", "<svg"})
    EXPECT_NE(html.find(part), std::string::npos) << part;
  EXPECT_EQ(html.find("Expect worse"), std::string::npos);
}

TEST(ReportFrontUnit, SaysWhereThereIsNoIntervalOrNoForecast) {
  ordered_json failed = Row(25e6, nullptr, nullptr, nullptr);
  failed["budget"] = 0.25, failed["cause"] = "not <finite>";
  const std::string html =
      FrontSection(Search("cross_entropy", 0, {failed, Row(50e6, 2.399, nullptr, nullptr)}), 1e8);
  EXPECT_NE(html.find("2.399"), std::string::npos);
  EXPECT_NE(html.find("none"), std::string::npos);
  EXPECT_NE(html.find("Expect worse"), std::string::npos);
  EXPECT_NE(html.find("not &lt;finite&gt;"), std::string::npos);
  EXPECT_EQ(html.find("high end"), std::string::npos) << "a line without values";
}

TEST(ReportFrontUnit, ShowsWhatASearchFoundAtWhichCostWhereThatIsACurve) {
  ordered_json points = {{{"macs", 20e6}, {"value", 0.25}}, {{"macs", 40e6}, {"value", 0.5}}};
  const auto search = [&] {
    return ordered_json{{"info", {{"trade_off", {{"metric", "accuracy"}, {"points", points}}}}}};
  };
  EXPECT_EQ(TradeOffSection(search(), 1e8), "");
  points.push_back({{"macs", 45e6}, {"value", 0.75}});
  EXPECT_NE(TradeOffSection(search(), 1e8).find("<svg"), std::string::npos);
  EXPECT_EQ(TradeOffSection(ordered_json::object(), 1e8), "");
}

TEST(ReportFrontUnit, OtherStrategiesHaveNoSuchChapter) {
  EXPECT_EQ(FrontSection({{"info", {{"steps", 3}}}}, 1e8), "");
  EXPECT_EQ(FrontSection(ordered_json::object(), 1e8), "");
}

}  // namespace
}  // namespace espalier

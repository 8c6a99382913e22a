#include "search/front.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "tests/support/tiny_environment.h"

namespace espalier {
namespace {

SearchResult RunFront(const TinyEnvironment& tiny, const FrontConfig& config) {
  SearchContext context{.seed = 2};
  return Front(config).Run(tiny.Get(), context);
}

TEST(FrontUnit, PlansAreNestedAndHoldTheirBudgets) {
  const TinyEnvironment tiny;
  const double full = tiny.budget().bounds().front().full;
  const SearchResult result =
      RunFront(tiny, {.budgets = {0.8, 0.6, 0.4}, .evaluations = 80, .samples = 16});
  const auto& front = result.info["front"];
  ASSERT_EQ(front.size(), 4U);  // and the run's own, 0.5
  std::vector<std::pair<double, Selection>> plans;
  for (const auto& row : front) {
    const double budget = row.contains("budget") ? row["budget"].get<double>() : 0.5;
    EXPECT_LE(row["macs"].get<double>(), budget * full);
    EXPECT_LE(row["low"].get<double>(), row["forecast"].get<double>());
    EXPECT_GE(row["high"].get<double>(), row["forecast"].get<double>());
    plans.emplace_back(budget, row["kept"].get<Selection>());
  }
  std::sort(plans.begin(), plans.end());
  for (size_t i = 0; i + 1 < plans.size(); ++i)
    for (size_t g = 0; g < plans[i].second.size(); ++g) {
      const auto &tight = plans[i].second[g], &loose = plans[i + 1].second[g];
      EXPECT_TRUE(std::includes(loose.begin(), loose.end(), tight.begin(), tight.end()))
          << "group " << g << " at " << plans[i].first;
    }
  EXPECT_EQ(result.selection, front.back()["kept"].get<Selection>());
  EXPECT_TRUE(front.back()["own_budget"].get<bool>());
}

TEST(FrontUnit, LearningNeverEndsBelowTheCriterionItself) {
  const TinyEnvironment tiny;
  FrontConfig config{.budgets = {0.7, 0.4}, .evaluations = 150, .samples = 32};
  const auto mean = [](const SearchResult& result) {
    double sum = 0;
    for (const auto& row : result.info["front"]) sum += row["searched_value"].get<double>();
    return sum;
  };
  const double learned = mean(RunFront(tiny, config));
  config.method = "criterion";
  const SearchResult plain = RunFront(tiny, config);
  EXPECT_EQ(plain.info["orders"], 1);
  EXPECT_GE(learned, mean(plain));
}

TEST(FrontUnit, ForecastsSayWhatTheyCameFrom) {
  const TinyEnvironment tiny;  // 32 validation samples: too few to leave some unseen
  const SearchResult result = RunFront(tiny, {.evaluations = 6, .samples = 0});
  EXPECT_NE(result.info["forecast_on"].get<std::string>().find("samples the search saw"),
            std::string::npos);
}

TEST(FrontUnit, BudgetsOutsideTheirRangeAreErrors) {
  const TinyEnvironment tiny;
  EXPECT_THROW(RunFront(tiny, {.budgets = {1.5}}), Error);
  EXPECT_THROW(RunFront(tiny, {.budgets = {1e-9}}), Error);  // below the least reachable
  EXPECT_THROW(Front({.criterion = "l2norm"}), Error);
}

}  // namespace
}  // namespace espalier

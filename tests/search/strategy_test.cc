#include "search/strategy.h"

#include <gtest/gtest.h>

#include <set>

#include "env/base/interrupt.h"
#include "search/random.h"
#include "search/uniform.h"
#include "tests/support/strategy_conformance.h"

namespace espalier {
namespace {

INSTANTIATE_TEST_SUITE_P(All, StrategyConformance,
                         testing::ValuesIn(Registry<Strategy>::Global().Names()),
                         [](const auto& info) { return info.param; });

TEST(StrategyUnit, ThoseThatNeedDataSayItIsMissing) {
  const TinyEnvironment tiny;
  Environment environment = tiny.Get();
  environment.splits = nullptr;
  for (const std::string& name : Registry<Strategy>::Global().Names()) {
    SCOPED_TRACE(name);
    const auto& facts = Registry<Strategy>::Global().Find(name)->info.facts;
    const bool needs = std::find(facts.begin(), facts.end(), kNeedsData) != facts.end();
    SearchContext context;
    try {
      Registry<Strategy>::Global().Create("strategy", name)->Run(environment, context);
      EXPECT_FALSE(needs);
    } catch (const Error& error) {
      EXPECT_TRUE(needs);
      EXPECT_EQ(error.kind(), ErrorKind::kConfig);
      EXPECT_NE(error.message().find(name), std::string::npos) << error.message();
    }
  }
}

TEST(UniformUnit, KeepsTheSameRatioEverywhereAndTheLargestWeights) {
  const TinyEnvironment tiny;
  SearchContext context;
  const SearchResult result = Uniform({}).Run(tiny.Get(), context);
  double low = 1, high = 0;
  for (size_t g = 0; g < result.selection.size(); ++g) {
    const auto units = static_cast<double>(tiny.Get().space.groups()[g].units);
    const auto kept = static_cast<double>(result.selection[g].size());
    low = std::min(low, (kept + 1) / units);  // rounding and repair move a group by one unit
    high = std::max(high, (kept - 1) / units);
    double least_kept = 1e30, most_cut = 0;
    const std::set<int64_t> chosen(result.selection[g].begin(), result.selection[g].end());
    for (int64_t unit = 0; unit < static_cast<int64_t>(units); ++unit) {
      const double score = result.scores[g][static_cast<size_t>(unit)];
      if (chosen.contains(unit))
        least_kept = std::min(least_kept, score);
      else
        most_cut = std::max(most_cut, score);
    }
    EXPECT_GE(least_kept, most_cut);
  }
  EXPECT_LE(high, low);
}

TEST(UniformUnit, UnknownCriterionIsAConfigError) {
  EXPECT_THROW(Uniform({.criterion = "l1norm"}), Error);
}

TEST(RandomSearchUnit, SeedsDrawDifferentUnits) {
  const TinyEnvironment tiny;
  std::set<Selection> seen;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    SearchContext context{.seed = seed};
    seen.insert(RandomSearch({.ratios = "random"}).Run(tiny.Get(), context).selection);
  }
  EXPECT_GT(seen.size(), 15U);
}

TEST(StrategyUnit, InterruptRequestsReachTheContext) {
  const SearchContext context;
  EXPECT_FALSE(context.StopRequested());
  RequestInterrupt();
  EXPECT_TRUE(context.StopRequested());
  ClearInterrupt();
}

}  // namespace
}  // namespace espalier

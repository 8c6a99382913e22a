#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "search/strategy.h"
#include "tests/support/faulty_metric.h"
#include "tests/support/tiny_environment.h"

namespace espalier {

/// What every registered strategy must do.
class StrategyConformance : public testing::TestWithParam<std::string> {
 protected:
  static SearchResult RunOnce(const Environment& environment, uint64_t seed,
                              const std::filesystem::path& folder = {}) {
    SearchContext context{.seed = seed, .folder = folder};
    return Make()->Run(environment, context);
  }
  static std::unique_ptr<Strategy> Make() {
    return Registry<Strategy>::Global().Create("strategy", GetParam());
  }
};

TEST_P(StrategyConformance, SelectsWithinTheBudget) {
  BudgetConfig rounded = TinyEnvironment::HalfMacs();
  rounded.round_to = 2;
  BudgetConfig two = TinyEnvironment::HalfMacs();
  two.params = Quantity{0.4, true};
  for (const BudgetConfig& budget : {TinyEnvironment::HalfMacs(), rounded, two}) {
    const TinyEnvironment tiny(budget);
    const SearchResult result = RunOnce(tiny.Get(), 1);
    ASSERT_EQ(result.selection.size(), tiny.Get().space.groups().size());
    EXPECT_TRUE(tiny.budget().Feasible(KeptCounts(result.selection)));
    MakePlan(tiny.Get().space, result.selection);  // checks range, order and blocks
  }
}

TEST_P(StrategyConformance, BlocksKeepEqualNumbers) {
  const TinyEnvironment tiny(TinyEnvironment::HalfMacs(), /*grouped=*/true);
  const SearchResult result = RunOnce(tiny.Get(), 1);
  bool blocked = false;
  for (size_t g = 0; g < result.selection.size(); ++g) {
    const Group& group = tiny.Get().space.groups()[g];
    std::vector<int64_t> per_block(static_cast<size_t>(group.blocks), 0);
    for (const int64_t unit : result.selection[g]) {
      ++per_block[static_cast<size_t>(unit / (group.units / group.blocks))];
    }
    for (const int64_t count : per_block) EXPECT_EQ(count, per_block.front()) << group.name;
    blocked |= group.blocks > 1;
  }
  EXPECT_TRUE(blocked) << "the network should have a blocked group";
}

TEST_P(StrategyConformance, IsDeterministicForASeed) {
  const TinyEnvironment tiny;
  const SearchResult first = RunOnce(tiny.Get(), 5), again = RunOnce(tiny.Get(), 5);
  EXPECT_EQ(first.selection, again.selection);
  EXPECT_EQ(first.scores, again.scores);
}

TEST_P(StrategyConformance, ContinuesIdenticallyAfterAStop) {
  const TinyEnvironment tiny;
  const SearchResult whole = RunOnce(tiny.Get(), 5);
  const TemporaryFolder folder;
  SearchContext context{.seed = 5, .folder = folder.path()};
  int64_t asked = 0;
  context.stop = [&] { return ++asked == 8; };
  try {
    Make()->Run(tiny.Get(), context);
    EXPECT_LT(asked, 8) << "the stop request was ignored";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInterrupted) << error.what();
  }
  const SearchResult resumed = RunOnce(tiny.Get(), 5, folder.path());
  EXPECT_EQ(resumed.selection, whole.selection);
  EXPECT_EQ(resumed.scores, whole.scores);
}

TEST_P(StrategyConformance, ContinuesIdenticallyAfterACrash) {
  struct Crash {};
  const TinyEnvironment tiny;
  const SearchResult whole = RunOnce(tiny.Get(), 5);
  const TemporaryFolder folder;
  SearchContext context{.seed = 5, .folder = folder.path()};
  int64_t steps = 0;  // dies in the middle of a step, some steps after the last checkpoint
  context.metric = [&](int64_t, std::string_view, double) {
    if (++steps == 131) throw Crash();
  };
  try {
    Make()->Run(tiny.Get(), context);
    EXPECT_LT(steps, 131);
  } catch (const Crash&) {
  }
  const SearchResult resumed = RunOnce(tiny.Get(), 5, folder.path());
  EXPECT_EQ(resumed.selection, whole.selection);
  EXPECT_EQ(resumed.scores, whole.scores);
}

TEST_P(StrategyConformance, ContinuesIdenticallyAfterACrashInTheMiddleOfABatch) {
  const TinyEnvironment tiny;
  Environment environment = tiny.Get();
  environment.task.metric = FaultyMetric::kName;
  const SearchResult whole = RunOnce(environment, 5);
  for (const int64_t fatal : {1, 2, 23, 60}) {  // evaluations
    SCOPED_TRACE(fatal);
    const TemporaryFolder folder;
    try {
      const FaultyMetric::Scope scope([&](int64_t call) {
        if (call == fatal) throw Error(ErrorKind::kInternal, "made-up: killed");
      });
      RunOnce(environment, 5, folder.path());
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kInternal) << error.what();
    }
    const SearchResult resumed = RunOnce(environment, 5, folder.path());
    EXPECT_EQ(resumed.selection, whole.selection);
    EXPECT_EQ(resumed.scores, whole.scores);
  }
}

TEST_P(StrategyConformance, SurvivesFailedTrials) {
  const TinyEnvironment tiny;
  Environment environment = tiny.Get();
  environment.task.metric = FaultyMetric::kName;
  const std::pair<const char*, std::function<bool(int64_t)>> patterns[] = {
      {"every fifth", [](int64_t call) { return call > 2 && call % 5 == 0; }},
      {"a whole batch, and the next", [](int64_t call) { return call > 24 && call <= 38; }}};
  for (const auto& [name, fails] : patterns) {
    SCOPED_TRACE(name);
    const FaultyMetric::Scope scope([&](int64_t call) {
      if (fails(call)) throw std::runtime_error("made-up: an evaluation broke");
    });
    const SearchResult result = RunOnce(environment, 5);
    EXPECT_TRUE(tiny.budget().Feasible(KeptCounts(result.selection)));
  }
}

TEST_P(StrategyConformance, LeavesTheNetworkAsItWas) {
  const TinyEnvironment tiny;
  const std::string before = tiny.network().WeightsHash();
  RunOnce(tiny.Get(), 2);
  EXPECT_EQ(tiny.network().WeightsHash(), before);  // bit for bit, buffers included
  for (const std::string& name : tiny.network().store.names()) {
    EXPECT_FALSE(tiny.network().store.Get(name).requires_grad()) << name;
  }
}

TEST_P(StrategyConformance, SaysWhereItComesFrom) {
  const EntryInfo& info = Registry<Strategy>::Global().Find(GetParam())->info;
  EXPECT_FALSE(info.summary.empty());
  EXPECT_FALSE(info.source.empty());
}

}  // namespace espalier

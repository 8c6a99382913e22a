#include "search/autobot.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>

#include "env/base/files.h"
#include "search/threshold.h"
#include "tests/support/tiny_environment.h"

namespace espalier {
namespace {

using Curves = std::map<std::string, std::vector<double>>;

SearchResult RunAutobot(const Environment& environment, const AutobotConfig& config,
                        Curves* curves = nullptr) {
  SearchContext context{.seed = 1};
  if (curves != nullptr) {
    context.metric = [curves](int64_t, std::string_view name, double value) {
      (*curves)[std::string(name)].push_back(value);
    };
  }
  return Autobot(config).Run(environment, context);
}

TEST(AutobotUnit, BudgetLossFallsAndTheSnapshotIsLate) {
  const TinyEnvironment tiny;
  Curves curves;
  const SearchResult result = RunAutobot(tiny.Get(), {.batch_size = 32}, &curves);
  EXPECT_EQ(curves["loss"].size(), 200U);
  EXPECT_NEAR(curves["loss/binary"].front(), 0.04, 1e-6);  // gamma * 0.1
  EXPECT_GT(curves["loss/budget"].front(), 1);
  EXPECT_LT(curves["loss/budget"].back(), 0.1);
  EXPECT_LT(curves["loss/binary"].back(), 0.04);
  EXPECT_GT(result.info["snapshot_step"].get<int64_t>(), 120);  // after 60 % of the steps
}

TEST(AutobotUnit, BinaryLossDrivesGatesToZeroOrOne) {
  const TinyEnvironment tiny;
  const auto distance = [&](double gamma) {  // mean |lambda - round(lambda)| at the end
    Curves curves;
    RunAutobot(tiny.Get(), {.batch_size = 32, .gamma = gamma}, &curves);
    return curves["loss/binary"].back() / gamma;
  };
  EXPECT_LT(distance(4), 0.5 * distance(0.04));
}

TEST(AutobotUnit, TheLossIsTheSumOfItsTermsAndOneStepIsItsOwnSnapshot) {
  const TinyEnvironment tiny;
  Curves curves;
  RunAutobot(tiny.Get(), {.batches = 1, .batch_size = 32}, &curves);
  EXPECT_EQ(curves["loss"].size(), 1U);  // one step: it is the snapshot
  EXPECT_NEAR(curves["loss"][0],
              curves["loss/cross_entropy"][0] + curves["loss/budget"][0] + curves["loss/binary"][0],
              1e-9);
}

TEST(AutobotUnit, LastThresholdEndsWithinItsToleranceBestHoldsTheBudget) {
  const TinyEnvironment tiny;
  const double limit = tiny.budget().bounds().front().limit;
  const auto macs = [&](const char* threshold, double tolerance) {
    const SearchResult result = RunAutobot(
        tiny.Get(),
        {.batches = 60, .batch_size = 32, .threshold = threshold, .tolerance = tolerance});
    const std::vector<int64_t> kept = KeptCounts(result.selection);
    return tiny.Get().cost.Evaluate(CostKind::kMacs, tiny.budget().convention(),
                                    std::vector<double>(kept.begin(), kept.end()));
  };
  EXPECT_NEAR(macs("last", 0.1 * limit), limit, 0.1 * limit);
  EXPECT_LE(macs("best", 0.1 * limit), limit);
}

TEST(AutobotUnit, CheckpointOfAnotherSearchIsRefused) {
  const TinyEnvironment tiny;
  const TemporaryFolder folder;
  SearchContext context{.seed = 1, .folder = folder.path()};
  Autobot({.batches = 4, .batch_size = 32}).Run(tiny.Get(), context);
  SearchContext other{.seed = 2, .folder = folder.path()};
  try {
    Autobot({.batches = 4, .batch_size = 32}).Run(tiny.Get(), other);
    FAIL() << "another seed";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kData);
  }
}

TEST(AutobotUnit, TruncatedCheckpointIsAnError) {
  const TinyEnvironment tiny;
  const TemporaryFolder folder;
  SearchContext context{.seed = 1, .folder = folder.path()};
  Autobot({.batches = 4, .batch_size = 32}).Run(tiny.Get(), context);
  const auto path = folder.path() / "autobot.safetensors";
  const std::string bytes = ReadFile(path);
  WriteFileAtomic(path, std::string_view(bytes).substr(0, bytes.size() / 2));
  EXPECT_THROW(Autobot({.batches = 4, .batch_size = 32}).Run(tiny.Get(), context), Error);
}

TEST(AutobotUnit, LossThatIsNotFiniteStopsTheSearch) {
  const TinyEnvironment tiny;
  Tensor weight = tiny.network().store.Get("fc.weight");
  weight[0][0] = std::numeric_limits<float>::quiet_NaN();
  try {
    RunAutobot(tiny.Get(), {.batches = 4, .batch_size = 32});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kTrials);
    EXPECT_NE(error.message().find("step 1"), std::string::npos) << error.message();
  }
}

TEST(ThresholdUnit, KeepsStrictlyAboveAndNeverEmptiesAGroup) {
  const TinyEnvironment tiny;
  const Space& space = tiny.Get().space;
  std::vector<std::vector<double>> scores;
  for (const Group& group : space.groups()) {
    std::vector<double>& row = scores.emplace_back();
    for (int64_t unit = 0; unit < group.units; ++unit) row.push_back(unit % 2 == 0 ? 0.5 : 0.75);
  }
  for (size_t g = 0; g < scores.size(); ++g) {
    EXPECT_EQ(CountsAbove(space, scores, 0.5)[g], space.groups()[g].units / 2);
    EXPECT_EQ(CountsAbove(space, scores, 0.49)[g], space.groups()[g].units);
    EXPECT_EQ(CountsAbove(space, scores, 0.75)[g], 1);
  }
}

TEST(ThresholdUnit, BisectionHalvesItsStep) {
  const TinyEnvironment tiny;
  std::vector<std::vector<double>> scores;
  for (const Group& group : tiny.Get().space.groups()) {
    std::vector<double>& row = scores.emplace_back();
    for (int64_t unit = 0; unit < group.units; ++unit) {
      row.push_back((static_cast<double>(unit) + 0.5) / static_cast<double>(group.units));
    }
  }
  const auto search = [&](int64_t evaluations) {
    return SearchThreshold(tiny.Get().space, tiny.Get().cost, tiny.budget(), scores,
                           {.tolerance = 0, .evaluations = evaluations});
  };
  // Half the units of every group cost less than half the MACs: t moves down to 0.25.
  EXPECT_EQ(search(1).last.threshold, 0.5);
  EXPECT_TRUE(search(1).last.feasible);
  EXPECT_EQ(search(2).last.threshold, 0.25);
  EXPECT_EQ(search(2).evaluations, 2);
  const ThresholdSearch long_search = search(50);
  EXPECT_TRUE(long_search.best.feasible);
  EXPECT_GE(long_search.best.excess, search(1).last.excess);
}

}  // namespace
}  // namespace espalier

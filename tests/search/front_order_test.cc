#include "search/front_order.h"

#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "search/front_journal.h"
#include "search/front_marginals.h"
#include "tests/support/tiny_environment.h"

namespace espalier {
namespace {

TEST(FrontOrderUnit, MarginalScoresAreWhatOneMoreUnitAddsPerCost) {
  const std::vector<Probe> probes = {{.group = 0, .removed = 0.5}, {.group = 1, .removed = 0.25}};
  const std::vector<double> damage = {0.2, 0.1}, costs = {0.1, 0.05, 0.2, 0};
  const Scores scores = MarginalScores(probes, damage, {2, 4, 1, 3}, costs);
  // Losses 0.8 r^2 and 1.6 r^2; the third group as the median of both, the upper one; the last
  // saves nothing.
  EXPECT_NEAR(scores[0][0], 0.8 * 0.25 / 0.1, 1e-12);
  EXPECT_NEAR(scores[0][1], 0.8 * 0.75 / 0.1, 1e-12);
  for (int k = 1; k <= 4; ++k)
    EXPECT_NEAR(scores[1][static_cast<size_t>(k - 1)],
                1.6 * (k * k - (k - 1) * (k - 1)) / 16.0 / 0.05, 1e-12);
  EXPECT_NEAR(scores[2][0], 1.6 / 0.2, 1e-12);
  for (const double score : scores[3]) EXPECT_GT(score, 1e50);
}

/// Calls visit for every way to remove `left` units.
void EveryWay(const std::vector<int64_t>& units, size_t g, int64_t left,
              std::vector<int64_t>& removed,
              const std::function<void(const std::vector<int64_t>&)>& visit) {
  if (g == units.size()) {
    if (left == 0) visit(removed);
    return;
  }
  for (removed[g] = 0; removed[g] <= std::min(units[g] - 1, left); ++removed[g])
    EveryWay(units, g + 1, left - removed[g], removed, visit);
}

TEST(FrontOrderUnit, CuttingInTheOrderOfMarginalsLosesLeastAtEveryCost) {
  Rng rng(3, 0, "marginals");
  for (int round = 0; round < 20; ++round) {
    SCOPED_TRACE(round);
    std::vector<int64_t> units;
    std::vector<Probe> probes;
    std::vector<double> damage, costs;
    for (size_t g = 0; g < 4; ++g) {
      units.push_back(2 + static_cast<int64_t>(rng.Index(5)));
      probes.push_back({.group = g, .removed = rng.Uniform(0.2, 0.8)});
      damage.push_back(rng.Uniform(0.01, 1));
      costs.push_back(0.01);  // equal: else greedy choices leave gaps at a budget
    }
    const auto loss = [&](const std::vector<int64_t>& kept) {
      double sum = 0;
      for (size_t g = 0; g < units.size(); ++g) {
        const double share =
            static_cast<double>(units[g] - kept[g]) / static_cast<double>(units[g]);
        sum += damage[g] * share * share / (probes[g].removed * probes[g].removed);
      }
      return sum;
    };
    const Scores scores = MarginalScores(probes, damage, units, costs);
    int64_t total = 0;
    for (const int64_t n : units) total += n;
    for (int64_t stay = 1; stay <= total; ++stay) {
      const double share = static_cast<double>(stay) / static_cast<double>(total);
      const std::vector<int64_t> kept = CountsAtShare(scores, {0, 0, 0, 0}, share);
      int64_t gone = total;  // a group's last unit never goes
      for (const int64_t left : kept) gone -= left;
      double best = std::numeric_limits<double>::max();
      std::vector<int64_t> removed(4);
      EveryWay(units, 0, gone, removed, [&](const std::vector<int64_t>& way) {
        std::vector<int64_t> left;
        for (size_t g = 0; g < 4; ++g) left.push_back(units[g] - way[g]);
        best = std::min(best, loss(left));
      });
      EXPECT_NEAR(loss(kept), best, 1e-9) << gone << " of " << total << " gone";
    }
  }
}

TEST(FrontOrderUnit, ProbesCutOneGroupEachTheDearestFirst) {
  const TinyEnvironment tiny;
  const std::vector<int64_t>& units = tiny.Get().cost.units();
  const std::vector<double> costs = UnitCosts(tiny.Get().cost, tiny.budget());
  const std::vector<Probe> all = ProbesOf(tiny.budget(), units, costs, 100);
  ASSERT_EQ(all.size(), units.size());
  double last = std::numeric_limits<double>::max();
  for (const Probe& probe : all) {
    for (size_t g = 0; g < units.size(); ++g)
      EXPECT_EQ(probe.counts[g], g == probe.group ? (units[g] + 1) / 2 : units[g]);
    EXPECT_NEAR(probe.removed, 0.5, 0.5 / static_cast<double>(units[probe.group]));
    const double cost = costs[probe.group] * static_cast<double>(units[probe.group]);
    EXPECT_LE(cost, last);
    last = cost;
  }
  const std::vector<Probe> two = ProbesOf(tiny.budget(), units, costs, 2);
  ASSERT_EQ(two.size(), 2U);
  EXPECT_EQ(two[1].group, all[1].group);
}

TEST(FrontOrderUnit, MutationsChangeAShareOfTheGroups) {
  const Scores scores = {{1, 2}, {3, 5, 9}, {2, 2}, {7, 8}};
  Rng rng(1, 0, "mutation");
  for (const bool shifts : {false, true}) {
    const FrontOrder parent = LevelOrder(scores);
    const FrontOrder child = Mutated(parent, scores, {.share = 0.3, .shifts = shifts}, rng);
    int scaled = 0, shifted = 0;
    for (size_t g = 0; g < scores.size(); ++g) {
      scaled += child.scale[g] != parent.scale[g];
      shifted += child.shift[g] != parent.shift[g];
      EXPECT_GT(child.scale[g], 0);
    }
    EXPECT_EQ(scaled, 2);
    EXPECT_EQ(shifted, shifts ? 2 : 0);
  }
}

TEST(FrontOrderUnit, EqualTopsKeepEqualSharesOfEqualCurves) {
  const std::vector<Probe> probes = {{.group = 0, .removed = 0.5}, {.group = 1, .removed = 0.5}};
  const std::vector<double> damage = {0.9, 0.1}, costs = {0.1, 0.3};
  const Scores scores = MarginalScores(probes, damage, {10, 40}, costs);
  const Scores level = EqualTopOrder(scores).Of(scores);
  for (const double share : {0.3, 0.5, 0.8}) {
    const std::vector<int64_t> kept = CountsAtShare(level, {0, 0}, share);
    EXPECT_NEAR(static_cast<double>(kept[0]) / 10, static_cast<double>(kept[1]) / 40, 0.1);
  }
}

}  // namespace
}  // namespace espalier

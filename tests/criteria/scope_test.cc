#include "criteria/scope.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>

#include "criteria/normalise.h"
#include "env/base/error.h"
#include "env/base/rng.h"
#include "env/graph/builder.h"
#include "env/models/models.h"

namespace espalier {
namespace {

using Values = std::vector<double>;
using Counts = std::vector<int64_t>;

void ExpectNear(const Values& actual, const Values& expected, double tolerance = 1e-7) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) EXPECT_NEAR(actual[i], expected[i], tolerance) << i;
}

TEST(NormaliseUnit, ByHand) {
  const auto by = [](const std::string& name, const Values& scores) {
    return Normalise(scores, ParseNormaliser(name));
  };
  ExpectNear(by("lamp", {1, 2, 3, 4}), {0.1, 2.0 / 9, 3.0 / 7, 1});
  ExpectNear(by("lamp", {4, 1, 3, 2}), {1, 0.1, 3.0 / 7, 2.0 / 9});
  ExpectNear(by("standardization", {1, 3, 5}), {0, .5, 1});
  ExpectNear(by("standarization", {1, 3, 5}), {0, .5, 1});
  ExpectNear(by("gaussian", {1, 2, 3}), {-1, 0, 1});
  ExpectNear(by("z_score", {1, 2, 3}), {-1, 0, 1});
  ExpectNear(by("mean", {1, 2, 3}), {.5, 1, 1.5});
  ExpectNear(by("sum", {1, 3}), {.25, .75});
  ExpectNear(by("max", {1, 4}), {.25, 1});
  ExpectNear(by("none", {1, 4}), {1, 4});
  // k = floor(.5 * 3) = 1: the second smallest; a quantile of 1 is clamped to the largest
  ExpectNear(by("sentinel", {4, 1, 2}), {2, .5, 1});
  ExpectNear(Normalise(Values{4, 1, 2}, Normaliser::kSentinel, 1), {1, .25, .5});
  try {
    ParseNormaliser("maxx");
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(error.hint().find("max"), std::string::npos);
  }
}

TEST(NormaliseUnit, ZeroDenominatorsGiveZeros) {
  for (const std::string& name : kNormaliserNames)
    for (const Values& scores : {Values{0, 0, 0}, Values{0}}) {
      SCOPED_TRACE(name);
      ExpectNear(Normalise(scores, ParseNormaliser(name)), Values(scores.size(), 0));
    }
  ExpectNear(Normalise(Values{-1, 1}, Normaliser::kMean), {0, 0});
  ExpectNear(Normalise(Values{5}, Normaliser::kGaussian), {0});
  EXPECT_TRUE(Normalise(Values{}, Normaliser::kMean).empty());
}

/// 1 .. 10 and a hundredth of it.
Scores TwoScales() {
  Scores scores(2);
  for (int i = 1; i <= 10; ++i) {
    scores[0].push_back(i);
    scores[1].push_back(i * 0.01);
  }
  return scores;
}

TEST(ScopeUnit, GlobalEmptiesTheSmallerScaleAndClassesDoNot) {
  // Half of all 20 units go: ten of the second group, which keeps one all the same.
  EXPECT_EQ(CountsAtShare(TwoScales(), {0, 0}, 0.5), (Counts{10, 1}));
  EXPECT_EQ(CountsAtShare(TwoScales(), {0, 1}, 0.5), (Counts{5, 5}));
}

TEST(ScopeUnit, TiesGoToTheLowerGroupAndTheNumberIsExact) {
  const Scores equal = {{1, 1, 1, 1}, {1, 1, 1, 1}};
  EXPECT_EQ(CountsAtShare(equal, {0, 0}, 0.75), (Counts{4, 2}));
  EXPECT_EQ(CountsAtShare(equal, {0, 0}, 0.7), (Counts{4, 1}));  // floor(5.6)
  EXPECT_EQ(CountsAtShare({Values(10, 1)}, {0}, 0.3), (Counts{3}));
  EXPECT_EQ(CountsAtShare(equal, {0, 0}, 0), (Counts{1, 1}));
}

TEST(ScopeProperty, RescalingAClassChangesNothingWithinClasses) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    Rng rng(seed, 0, "scope");
    Scores scores(4);
    for (Values& group : scores)
      for (int i = 0; i < 9; ++i) group.push_back(rng.Uniform());
    const Counts classes = {0, 1, 0, 1};
    Scores scaled = scores;
    for (const size_t g : {1U, 3U})
      for (double& score : scaled[g]) score = std::exp(5 * score);  // monotone
    for (const double share : {0.2, 0.5, 0.8})
      EXPECT_EQ(CountsAtShare(scores, classes, share), CountsAtShare(scaled, classes, share));
    EXPECT_NE(CountsAtShare(scores, {0, 0, 0, 0}, 0.5), CountsAtShare(scaled, {0, 0, 0, 0}, 0.5));
  }
}

TEST(EntropyUnit, SoftmaxByHand) {
  const Values scores = {.1, .2, .4}, most(3, 1.0);
  const auto shares = [&](double epsilon) { return EntropyShares(scores, .3, epsilon, most); };
  ExpectNear(shares(.1), {.6348, .2335, .0316}, 1e-4);
  ExpectNear(shares(.2), {.4919, .2983, .1098}, 1e-4);
  ExpectNear(shares(1e9), {.3, .3, .3}, 1e-8);
}

TEST(EntropyProperty, TheMeanStaysWhenSharesAreClipped) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(seed);
    Rng rng(seed, 0, "entropy");
    Values scores, most;
    for (int i = 0; i < 6; ++i) {
      scores.push_back(rng.Uniform());
      most.push_back(rng.Uniform(0.7, 0.95));
    }
    for (const double epsilon : {1e-3, .05, .3}) {  // 1e-3: the softmax alone would give 6 * mean
      const Values removed = EntropyShares(scores, .5, epsilon, most);
      EXPECT_NEAR(std::accumulate(removed.begin(), removed.end(), 0.0) / 6, .5, 1e-12);
      for (size_t i = 0; i < 6; ++i) {
        EXPECT_GE(removed[i], -1e-12);
        EXPECT_LE(removed[i], most[i] + 1e-12);
      }
    }
  }
}

class NetworkScope {
 public:
  explicit NetworkScope(const Network& network, const BudgetConfig& bounds = Macs(0.5))
      : space(BuildSpace(network)), cost(space), budget(cost, bounds) {}
  static BudgetConfig Macs(double share) {
    BudgetConfig config;
    config.macs = Quantity{share, true};
    return config;
  }
  Scores RandomScores(uint64_t seed) const {
    Scores scores;
    for (const Group& group : space.groups()) {
      Rng rng(seed, 0, "scores/" + group.name);
      Values& own = scores.emplace_back();
      for (int64_t unit = 0; unit < group.units; ++unit) own.push_back(rng.Uniform());
    }
    return scores;
  }
  Ranking Rank(const std::string& scope, const Scores& scores) const {
    return RankUnderBudget(space, cost, budget, scores, {.scope = scope});
  }
  const Space space;
  const CostModel cost;
  const Budget budget;
};

TEST(SignatureUnit, GroupsOfEqualStructureShareAKey) {
  const Space space = BuildSpace(BuildModel("resnet20"));
  const std::vector<uint64_t> keys = GroupSignatures(space);
  const auto key = [&](const std::string& name) {
    const int32_t group = space.FindGroup(name);
    EXPECT_GE(group, 0) << name;
    return keys[static_cast<size_t>(group)];
  };
  // The middle of a block is the same whatever its width.
  for (int layer = 1; layer <= 3; ++layer)
    for (int block = 0; block < 3; ++block)
      EXPECT_EQ(key(Str("layer", layer, ".", block, ".conv1")), key("layer1.0.conv1"));
  EXPECT_NE(key("layer1.0.conv1"), key("conv1"));  // inside a block, the trunk
}

Network TwoBranches(int64_t groups) {
  Builder b("branches", 1);
  const ValueId x = b.Input("x", {2, 4, 6, 6});
  const auto branch = [&](const std::string& name, int64_t width, int64_t in_groups) {
    ValueId y = b.Conv2d(name + ".a", x, 4, width, {.padding = 1});
    y = b.Relu(b.BatchNorm2d(name + ".norm", y, width));
    y = b.Relu(b.Conv2d(name + ".b", y, width, width, {.padding = 1, .groups = in_groups}));
    return b.Conv2d(name + ".c", y, width, 4, {.kernel = 1});
  };
  return b.Finish({b.Add(branch("one", 8, 1), branch("two", 12, groups))});
}

TEST(SignatureUnit, GroupedAndDepthwiseConvolutionsDiffer) {
  std::vector<uint64_t> keys;
  for (const int64_t groups : {1, 4, 12}) {
    const Space space = BuildSpace(TwoBranches(groups));
    const std::vector<uint64_t> all = GroupSignatures(space);
    const uint64_t one = all[static_cast<size_t>(space.FindGroup("one.a"))];
    keys.push_back(all[static_cast<size_t>(space.FindGroup("two.a"))]);
    EXPECT_EQ(one == keys.back(), groups == 1) << groups;
  }
  EXPECT_NE(keys[1], keys[2]);
}

TEST(ScopeUnit, IsomorphicKeepsOneRatioInEveryClass) {
  const NetworkScope net(TwoBranches(1));
  ASSERT_EQ(net.space.groups().size(), 4U);  // a and b of two branches
  const Scores scores = net.RandomScores(1);
  const Ranking isomorphic = net.Rank("isomorphic", scores);
  EXPECT_EQ(isomorphic.classes, 2);  // the a's and the b's
  const std::vector<uint64_t> keys = GroupSignatures(net.space);
  Counts classes;
  for (const uint64_t key : keys) classes.push_back(key == keys[0] ? 0 : 1);
  const Counts at_share = CountsAtShare(scores, classes, isomorphic.share);
  Counts per_class(2, 0);
  for (size_t g = 0; g < 4; ++g) per_class[static_cast<size_t>(classes[g])] += at_share[g];
  EXPECT_EQ(per_class[0], per_class[1]);  // 20 units each
  EXPECT_EQ(net.Rank("global", scores).classes, 1);
}

TEST(ScopeProperty, IsomorphicIsGlobalWithOneSignature) {
  Builder b("alike", 1);
  const ValueId x = b.Input("x", {2, 4, 6, 6});
  const auto branch = [&](const std::string& name, int64_t width) {
    const ValueId y = b.Relu(b.Conv2d(name + ".a", x, 4, width, {.padding = 1}));
    return b.Conv2d(name + ".b", y, width, 4, {.kernel = 1});
  };
  const ValueId sum = b.Add(branch("one", 8), branch("two", 12));
  const NetworkScope net(b.Finish({b.Add(sum, branch("three", 20))}));
  const std::vector<uint64_t> keys = GroupSignatures(net.space);
  ASSERT_EQ(keys.size(), 3U);
  ASSERT_EQ(std::count(keys.begin(), keys.end(), keys[0]), 3);
  int apart_from_local = 0;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(seed);
    const Scores scores = net.RandomScores(seed);
    const Ranking isomorphic = net.Rank("isomorphic", scores), global = net.Rank("global", scores);
    EXPECT_EQ(isomorphic.kept, global.kept);
    EXPECT_EQ(isomorphic.share, global.share);
    EXPECT_EQ(isomorphic.classes, 1);
    apart_from_local += isomorphic.kept != net.Rank("local", scores).kept;
  }
  EXPECT_GT(apart_from_local, 10) << "else the scopes could not be told apart here";
}

TEST(ScopeProperty, IsomorphicIsLocalWhenAllSignaturesDiffer) {
  // Equal widths, so that both keep the same number before the budget is filled.
  Builder b("unlike", 1);
  const auto conv = [&](const std::string& name, ValueId in, int64_t channels) {
    return b.Conv2d(name, in, channels, 12, {.padding = 1});
  };
  ValueId x = b.Relu(conv("a", b.Input("x", {2, 3, 6, 6}), 3));
  x = b.BatchNorm2d("norm", conv("b", x, 12), 12);
  x = b.Relu6(conv("c", x, 12));
  const NetworkScope net(b.Finish({b.Linear("fc", b.Flatten(b.GlobalAvgPool(x)), 12, 3)}));
  std::vector<uint64_t> keys = GroupSignatures(net.space);
  ASSERT_EQ(keys.size(), 3U);
  std::sort(keys.begin(), keys.end());
  ASSERT_EQ(std::unique(keys.begin(), keys.end()), keys.end());
  int apart_from_global = 0;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(seed);
    const Scores scores = net.RandomScores(seed);
    const Ranking isomorphic = net.Rank("isomorphic", scores), local = net.Rank("local", scores);
    EXPECT_EQ(isomorphic.kept, local.kept);
    EXPECT_EQ(isomorphic.classes, local.classes);
    apart_from_global += isomorphic.kept != net.Rank("global", scores).kept;
  }
  EXPECT_GT(apart_from_global, 10);
  // The rule itself, for any widths: each group keeps its own share, whatever the scores.
  for (const double share : {0.2, 0.5, 0.8})
    EXPECT_EQ(CountsAtShare({Values(10, 1), Values(4, 99), Values(7, -3)}, {0, 1, 2}, share),
              (Counts{static_cast<int64_t>(10 * share),
                      std::max<int64_t>(1, static_cast<int64_t>(4 * share)),
                      static_cast<int64_t>(7 * share)}));
}

TEST(ScopeProperty, EveryScopeHoldsEveryBudget) {
  const Network network = BuildModel("resnet20");
  BudgetConfig two = NetworkScope::Macs(0.4);
  two.params = Quantity{0.5, true};
  BudgetConfig rounded = NetworkScope::Macs(0.5);
  rounded.round_to = 4;
  rounded.min_keep = 0.25;
  rounded.max_keep = 0.9;
  BudgetConfig capped = NetworkScope::Macs(0.9);  // which the caps hold by themselves
  capped.max_keep = 0.75;
  for (const BudgetConfig& bounds : {NetworkScope::Macs(0.5), two, rounded, capped}) {
    const NetworkScope net(network, bounds);
    for (const std::string& scope : kScopeNames)
      for (uint64_t seed = 0; seed < 3; ++seed) {
        SCOPED_TRACE(Str(scope, " seed ", seed));
        const Scores scores = net.RandomScores(seed);
        const Ranking found = net.Rank(scope, scores);
        EXPECT_TRUE(net.budget.Feasible(found.kept));
        EXPECT_EQ(found.kept, net.Rank(scope, scores).kept);
        for (size_t g = 0; g < found.kept.size(); ++g) {
          const int64_t units = net.space.groups()[g].units;
          EXPECT_GE(found.kept[g], 1);
          // The cap, up to the next count that may be kept: of 64 units 58, or 60 in fours.
          const auto cap =
              static_cast<int64_t>(std::ceil(bounds.max_keep * static_cast<double>(units) - 1e-9));
          EXPECT_LE(found.kept[g], std::min(units, (cap + bounds.round_to - 1) / bounds.round_to *
                                                       bounds.round_to));
          if (bounds.round_to == 1) continue;
          EXPECT_EQ(found.kept[g] % 4, 0);
          EXPECT_GE(found.kept[g], units / 4);
        }
        if (bounds.max_keep == 0.75) {
          for (size_t g = 0; g < found.kept.size(); ++g)
            EXPECT_EQ(found.kept[g], net.space.groups()[g].units / 4 * 3);  // of 16, 32, 64
          continue;
        }
        // Nothing is given away: one more step of any group breaks a bound (local: of all groups).
        const Values counts(found.kept.begin(), found.kept.end());
        const Bound& bound = net.budget.bounds().front();
        const double used =
            net.cost.Evaluate(bound.kind, net.budget.convention(), counts) / bound.limit;
        if (net.budget.bounds().size() == 1) {
          EXPECT_GT(used, bounds.round_to == 1 ? 0.97 : 0.9);
        }
      }
  }
}

TEST(ScopeUnit, GlobalPerCostPrefersDearUnits) {
  // Equal scores: what saves most goes first.
  const NetworkScope net(BuildModel("resnet20"));
  Scores equal = net.RandomScores(0);
  for (Values& group : equal) std::fill(group.begin(), group.end(), 1.0);
  const std::vector<double> costs = UnitCosts(net.cost, net.budget);
  const Ranking found = net.Rank("global_per_cost", equal);
  const size_t dear =
      static_cast<size_t>(std::max_element(costs.begin(), costs.end()) - costs.begin());
  const size_t cheap =
      static_cast<size_t>(std::min_element(costs.begin(), costs.end()) - costs.begin());
  EXPECT_LT(found.kept[dear], net.cost.units()[dear] / 4);
  EXPECT_EQ(found.kept[cheap], net.cost.units()[cheap]);
}

TEST(ScopeUnit, UnitCostsAreWhatRemovingOneSaves) {
  const NetworkScope net(BuildModel("resnet20"));
  const std::vector<double> costs = UnitCosts(net.cost, net.budget);
  const double full = net.cost.Full().macs;
  for (size_t g = 0; g < costs.size(); g += 3) {
    Selection selection = KeepAll(net.space);
    selection[g].pop_back();
    const Network cut = Cut(net.space.network(), MakePlan(net.space, selection));
    const double recounted = CostModel(BuildSpace(cut)).Full().macs;
    EXPECT_NEAR(costs[g], (full - recounted) / full, 1e-12) << net.space.groups()[g].name;
  }
}

/// 0.6 of a cost of which 80 of 100 parts can go leaves half of those: (0.6 - 0.2) / 0.8.
TEST(BudgetUnit, OnlyPartOfTheCostIsPrunable) {
  Builder b("chain", 1);
  ValueId x = b.Linear("a", b.Input("x", {2, 1}), 1, 8, false);
  x = b.Linear("b", x, 8, 1, false);
  BudgetConfig bounds;
  bounds.params = Quantity{0.6, true};
  const NetworkScope net(b.Finish({b.Linear("c", x, 1, 4, false)}), bounds);
  ASSERT_EQ(net.cost.Full().params, 20);  // 8 + 8 + 4
  EXPECT_EQ(net.budget.Project(Decision(net.space.groups().size(), 1.0))[0], 4);
}

TEST(ScopeUnit, UnknownScopesGetASuggestion) {
  try {
    ParseScope("globl");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kConfig);
    EXPECT_NE(error.hint().find("global"), std::string::npos);
  }
}

}  // namespace
}  // namespace espalier

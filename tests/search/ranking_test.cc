#include "search/ranking.h"

#include <gtest/gtest.h>

#include <cmath>

#include "criteria/criterion.h"
#include "env/graph/executor.h"
#include "search/uniform.h"
#include "tests/support/attention_net.h"
#include "tests/support/tiny_environment.h"

namespace espalier {
namespace {

SearchResult Rank(const TinyEnvironment& tiny, const RankingConfig& config) {
  SearchContext context{.seed = 3};
  return RankingSearch(config).Run(tiny.Get(), context);
}

TEST(RankingUnit, LocallyItIsUniform) {
  const TinyEnvironment tiny;
  SearchContext context{.seed = 3};
  for (const std::string criterion : {"l1_norm", "l2_norm(p=3)", "lamp"}) {
    const SearchResult uniform = Uniform({.criterion = criterion}).Run(tiny.Get(), context);
    const SearchResult local = Rank(tiny, {.criterion = criterion, .scope = {.scope = "local"}});
    EXPECT_EQ(local.selection, uniform.selection) << criterion;
    EXPECT_EQ(local.scores, uniform.scores) << criterion;
  }
}

TEST(RankingUnit, EveryCriterionInEveryScopeHoldsTheBudget) {
  const TinyEnvironment tiny;
  for (const std::string& criterion : Registry<Criterion>::Global().Names())
    for (const std::string& scope : kScopeNames) {
      SCOPED_TRACE(criterion + " " + scope);
      const SearchResult found =
          Rank(tiny, {.criterion = criterion, .scope = {.scope = scope}, .calibration = {1, 8, 4}});
      EXPECT_TRUE(tiny.budget().Feasible(KeptCounts(found.selection)));
      MakePlan(tiny.Get().space, found.selection);
      EXPECT_EQ(found.info["criterion"], criterion);
      EXPECT_EQ(found.info["scope"], scope);
    }
}

TEST(RankingUnit, ScopesAndCriteriaChooseDifferently) {
  const TinyEnvironment tiny;
  const auto kept = [&](const std::string& criterion, const std::string& scope) {
    return KeptCounts(Rank(tiny, {.criterion = criterion, .scope = {.scope = scope}}).selection);
  };
  EXPECT_NE(kept("l1_norm", "global"), kept("l1_norm", "local"));
  EXPECT_NE(kept("taylor", "global_per_cost"), kept("l1_norm", "global_per_cost"));
}

TEST(RankingUnit, GradientCriteriaNeedNoLabels) {
  const TinyEnvironment tiny;
  Environment environment = tiny.Get();
  const auto without = [](Dataset samples) {
    samples.targets.clear();
    return samples;
  };
  const Splits splits(environment.splits->config(), without(environment.splits->train()),
                      without(environment.splits->validation()),
                      without(environment.splits->test()));
  environment.splits = &splits;
  environment.task = MakeTask({}, splits.train(), tiny.network());
  ASSERT_EQ(environment.task.loss, "kl");
  SearchContext context;
  const SearchResult result =
      RankingSearch({.criterion = "taylor", .calibration = {.batches = 2, .batch_size = 32}})
          .Run(environment, context);
  double largest = 0;
  for (const auto& group : result.scores)
    for (const double score : group) largest = std::max(largest, std::abs(score));
  EXPECT_GT(largest, 1e-9) << "the divergence itself has no gradient at the uncut network";
}

TEST(RankingUnit, CompensationBringsTheCutNearerToTheUncutNetwork) {
  const TinyEnvironment tiny;
  const RankingConfig config{.criterion = "activation",
                             .calibration = {.batches = 4, .batch_size = 32}};
  RankingConfig moved = config;
  moved.compensate = true;
  const SearchResult plain = Rank(tiny, config), compensated = Rank(tiny, moved);
  ASSERT_EQ(plain.selection, compensated.selection);
  EXPECT_FALSE(plain.weights.has_value());
  ASSERT_TRUE(compensated.weights.has_value());
  const at::NoGradGuard no_grad;
  const Dataset& train = tiny.Get().splits->train();
  const Tensor images = train.Range(0, train.count()).inputs[0];
  const Tensor wanted = Forward(tiny.network(), images);
  const auto error = [&](const ParameterStore& store) {
    Network network = tiny.network();
    network.store = store;
    const Network cut = Cut(network, MakePlan(tiny.Get().space, plain.selection));
    return (Forward(cut, images) - wanted).square().mean().item<double>();
  };
  EXPECT_LT(error(*compensated.weights), error(tiny.network().store));
}

TEST(RankingUnit, StepsEndWithinTheBudgetWhateverTheSchedule) {
  const TinyEnvironment tiny;
  for (const std::string& scope : kScopeNames)
    for (const std::string schedule : {"linear", "cubic", "cosine", "exponential"}) {
      SCOPED_TRACE(scope + " " + schedule);
      const SearchResult found = Rank(tiny, {.criterion = "taylor",
                                             .scope = {.scope = scope},
                                             .calibration = {1, 16, 4},
                                             .steps = 4,
                                             .schedule = schedule});
      EXPECT_TRUE(tiny.budget().Feasible(KeptCounts(found.selection)));
      // What stays outranks what went, whenever it went.
      EXPECT_EQ(SelectTop(tiny.Get().space, found.scores, KeptCounts(found.selection)),
                found.selection);
      for (const auto& group : found.scores)
        for (const double score : group) EXPECT_TRUE(std::isfinite(score));
    }
}

TEST(RankingUnit, EachStepScoresWhatTheLastOneLeft) {
  // Scores by weights: a unit whose consumer lost its columns is worth less than before.
  const TinyEnvironment tiny;
  const Space& space = tiny.Get().space;
  const RankingConfig once{.criterion = "l2_norm", .scope = {.scope = "global"}};
  RankingConfig twice = once;
  twice.steps = 2;
  const SearchResult found = Rank(tiny, twice);
  const Budget between(tiny.Get().cost, [] {
    BudgetConfig config = TinyEnvironment::HalfMacs();
    config.macs = Quantity{0.75, true};
    return config;
  }());
  const auto criterion = MakeCriterion("l2_norm");
  const Scores first = ScoreGroups(*criterion, space, tiny.network().store, 0);
  const Selection left = SelectTop(
      space, first, RankUnderBudget(space, tiny.Get().cost, between, first, once.scope).kept);
  // The cut network itself, not only one with zeros.
  const Network cut = Cut(tiny.network(), MakePlan(space, left));
  const Space smaller = BuildSpace(cut);
  const Scores second = ScoreGroups(*criterion, smaller, cut.store, 0);
  size_t compared = 0;
  for (size_t g = 0; g < second.size(); ++g) {
    const int32_t own = space.FindGroup(smaller.groups()[g].name);
    if (own < 0 || second[g].size() != left[static_cast<size_t>(own)].size()) continue;
    for (size_t i = 0; i < second[g].size(); ++i) {
      const auto unit = static_cast<size_t>(left[static_cast<size_t>(own)][i]);
      EXPECT_NEAR(found.scores[static_cast<size_t>(own)][unit], second[g][i], 1e-6 * second[g][i]);
      ++compared;
    }
  }
  EXPECT_GT(compared, 10U);
  EXPECT_NE(Rank(tiny, once).scores, found.scores);
}

TEST(RankingUnit, TurnedValuesBringTheCutNearerToTheUncutNetwork) {
  const AttentionNet net(/*fused=*/true, AttentionNet::kHeads, "dims");
  const CostModel cost(net.space());
  BudgetConfig half;
  half.params = Quantity{0.7, true};
  const Budget budget(cost, half);
  Rng rng(3);
  Dataset data;
  data.inputs = {RandomTensor(rng, {64, AttentionNet::kLength, 8})};
  const Splits splits({}, data, data.Part(0, 8), data.Part(8, 8));
  const Task task = MakeTask({}, splits.train(), net.network());
  const Environment environment{
      .space = net.space(), .cost = cost, .budget = budget, .splits = &splits, .task = task};
  const at::NoGradGuard no_grad;
  const Tensor wanted = Forward(net.network(), data.inputs[0]);
  const auto error = [&](bool turn, bool compensate) {
    SearchContext context{.seed = 3};
    const SearchResult found = RankingSearch({.criterion = "modegpt",
                                              .scope = {.scope = "local"},
                                              .calibration = {.batches = 2, .batch_size = 32},
                                              .turn_values = turn,
                                              .compensate = compensate})
                                   .Run(environment, context);
    EXPECT_EQ(found.info.contains("turned"), turn);
    if (turn) {
      EXPECT_EQ(found.info["turned"], nlohmann::json({"v.weight"}));
    }
    Network network = net.network();
    if (found.weights) network.store = *found.weights;
    const Network cut = Cut(network, MakePlan(net.space(), found.selection));
    return (Forward(cut, data.inputs[0]) - wanted).square().mean().item<double>();
  };
  const double plain = error(false, false), turned = error(true, false);
  EXPECT_LT(turned, plain);
  EXPECT_LT(error(true, true), turned);
}

TEST(RankingUnit, ConfigErrorsComeBeforeAnyWork) {
  EXPECT_THROW(RankingSearch({.criterion = "taylr"}), Error);
  EXPECT_THROW(RankingSearch({.criterion = "taylor(mode=second)"}), Error);
  EXPECT_THROW(RankingSearch({.scope = {.scope = "everywhere"}}), Error);
  EXPECT_THROW(RankingSearch({.scope = {.normaliser = "average"}}), Error);
  const TinyEnvironment tiny;
  Environment bare = tiny.Get();
  bare.splits = nullptr;
  SearchContext context;
  EXPECT_THROW(RankingSearch({.criterion = "taylor"}).Run(bare, context), Error);
  EXPECT_FALSE(RankingSearch({.criterion = "lamp"}).Run(bare, context).selection.empty());
}

}  // namespace
}  // namespace espalier

#include "search/ranking.h"

#include <gtest/gtest.h>

#include "criteria/criterion.h"
#include "env/graph/executor.h"
#include "search/uniform.h"
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

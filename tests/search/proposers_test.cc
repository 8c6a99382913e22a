#include <gtest/gtest.h>

#include <Eigen/Dense>
#include <cmath>
#include <limits>

#include "search/pareto.h"
#include "search/proposer.h"
#include "search/proposers/cma_es.h"
#include "search/proposers/gaussian_process.h"
#include "search/proposers/nsga2.h"
#include "search/proposers/points.h"
#include "search/proposers/successive_halving.h"
#include "search/proposers/tpe.h"
#include "tests/support/tiny_environment.h"

namespace espalier {
namespace {

TEST(GaussianProcessUnit, InterpolatesExactValuesAndReturnsToTheMeanFarAway) {
  Eigen::MatrixXd points(4, 1);
  points << 0, 0.3, 0.6, 1;
  Eigen::VectorXd values(4);
  values << 1, 2, 0, 3;
  const GaussianProcess process(points, values, Eigen::VectorXd::Zero(4));
  for (Eigen::Index i = 0; i < 4; ++i) {
    const auto at = process.At(points.row(i).transpose());
    EXPECT_NEAR(at.mean, values(i), 1e-3);
    EXPECT_LT(at.deviation, 5e-3);
  }
  const auto far = process.At(Eigen::VectorXd::Constant(1, 100));
  EXPECT_NEAR(far.mean, 1.5, 1e-6);
  EXPECT_NEAR(far.deviation, std::sqrt(1.25), 1e-6);  // population deviation of the values
}

TEST(GaussianProcessUnit, NoiseKeepsItFromInterpolating) {
  Eigen::MatrixXd points(3, 1);
  points << 0, 1e-4, 1;
  Eigen::VectorXd values(3);
  values << 1, 0, 0.5;  // two values at practically one point
  const GaussianProcess process(points, values, Eigen::VectorXd::Constant(3, 0.25));
  const auto at = process.At(Eigen::VectorXd::Constant(1, 0));
  EXPECT_NEAR(at.mean, 0.5, 0.05);
  EXPECT_GT(at.deviation, 0.1);
}

TEST(GaussianProcessUnit, ExpectedImprovementInClosedForm) {
  // mean = best: deviation * phi(0) = 0.398942...
  EXPECT_NEAR(ExpectedImprovement(1, 1, 1), 0.3989422804, 1e-9);
  EXPECT_NEAR(ExpectedImprovement(1, 2, 1), 0.7978845608, 1e-9);
  // one deviation above: 1 * Phi(1) + phi(1) = 0.841345 + 0.241971.
  EXPECT_NEAR(ExpectedImprovement(2, 1, 1), 1.0833154706, 1e-9);
  EXPECT_EQ(ExpectedImprovement(0, 0, 1), 0);
  EXPECT_EQ(ExpectedImprovement(3, 0, 1), 2);
}

double Minimise(const std::function<double(const Eigen::VectorXd&)>& function, Eigen::Index size,
                int generations) {
  Rng rng(3);
  CmaEs::State state = CmaEs::Begin(Eigen::VectorXd::Constant(size, 1.5), 0.5);
  double best = std::numeric_limits<double>::infinity();
  for (int i = 0; i < generations; ++i) {
    const Eigen::MatrixXd x = CmaEs::Sample(state, 12, rng);
    std::vector<double> values;
    for (Eigen::Index k = 0; k < x.cols(); ++k) {
      values.push_back(-function(x.col(k)));
      best = std::min(best, -values.back());
    }
    CmaEs::Update(state, x, values);
  }
  return best;
}

TEST(CmaEsUnit, FindsTheMinimumOfTestFunctions) {
  const auto sphere = [](const Eigen::VectorXd& x) { return x.squaredNorm(); };
  EXPECT_LT(Minimise(sphere, 8, 150), 1e-9);
  const auto ellipsoid = [](const Eigen::VectorXd& x) {
    double sum = 0;
    for (Eigen::Index i = 0; i < x.size(); ++i)
      sum +=
          std::pow(1e4, static_cast<double>(i) / static_cast<double>(x.size() - 1)) * x(i) * x(i);
    return sum;
  };
  EXPECT_LT(Minimise(ellipsoid, 8, 300), 1e-9);  // needs the covariance
  const auto rosenbrock = [](const Eigen::VectorXd& x) {
    double sum = 0;
    for (Eigen::Index i = 0; i + 1 < x.size(); ++i)
      sum += 100 * std::pow(x(i + 1) - x(i) * x(i), 2) + std::pow(1 - x(i), 2);
    return sum;
  };
  EXPECT_LT(Minimise(rosenbrock, 5, 500), 1e-6);
}

TEST(CmaEsUnit, AFailedCandidateIsTheWorst) {
  CmaEs::State with = CmaEs::Begin(Eigen::VectorXd::Zero(2), 1), without = with;
  Eigen::MatrixXd x(2, 4);
  x << 1, 2, 3, 4, 1, 2, 3, 4;
  CmaEs::Update(with, x, {4, 3, 2, -std::numeric_limits<double>::infinity()});
  CmaEs::Update(without, x, {4, 3, 2, 1});
  EXPECT_TRUE(with.mean.isApprox(without.mean));
  EXPECT_TRUE(with.covariance.allFinite());
}

TEST(Nsga2Unit, RanksFrontsAndMeasuresCrowding) {
  const std::vector<std::vector<double>> points = {{1, 5}, {5, 1}, {3, 3}, {2, 2}, {1, 1}};
  EXPECT_EQ(NonDominatedRanks(points), (std::vector<int64_t>{0, 0, 0, 1, 2}));
  const auto distances = CrowdingDistances({{1, 5}, {2, 4}, {5, 1}});
  EXPECT_TRUE(std::isinf(distances[0]) && std::isinf(distances[2]));
  EXPECT_NEAR(distances[1], (5 - 1) / 4.0 + (5 - 1) / 4.0, 1e-12);
}

/// What an nsga2 with these objectives tries in three generations, when all candidates are equally
/// good.
std::vector<Trial> TrialsOf(const std::vector<std::string>& costs, const BudgetConfig& bounds) {
  const TinyEnvironment tiny(bounds);
  const Environment environment = tiny.Get();
  SearchProblem problem{.cost = environment.cost, .budget = environment.budget, .evaluations = 99};
  problem.low.assign(environment.space.groups().size(), 0.1);
  problem.high.assign(environment.space.groups().size(), 1);
  Nsga2Config config;
  config.population = 8;
  config.costs = costs;
  Nsga2 proposer(config);
  std::vector<Proposal> asked = {{.decision = Decision(problem.groups(), 1.0)}};
  std::vector<Trial> trials;
  for (uint64_t round = 0; round < 4; ++round) {
    std::vector<Trial> batch;
    for (const Proposal& proposal : asked) {
      Trial& trial = batch.emplace_back();
      trial.kept = environment.budget.Project(proposal.decision);
      trial.value = 0.5;  // all alike: only costs tell them apart
      const std::vector<double> kept(trial.kept.begin(), trial.kept.end());
      trial.cost = environment.cost.Evaluate(kept, environment.budget.convention());
    }
    proposer.Tell(problem, batch);
    trials.insert(trials.end(), batch.begin(), batch.end());
    Rng rng(1, round, "ask");
    asked = proposer.Ask(problem, rng);
  }
  return trials;
}

TEST(Nsga2Unit, CostsAreThoseOfTheBudgetOrThoseNamed) {
  BudgetConfig bounds = TinyEnvironment::HalfMacs();
  const auto mean = [](std::span<const Trial> trials, double Cost::*cost) {
    double sum = 0;
    for (const Trial& trial : trials) sum += trial.cost.*cost / static_cast<double>(trials.size());
    return sum;
  };
  for (const auto& [name, cost] : {std::pair("params", &Cost::params),
                                   std::pair("activation_bytes", &Cost::activation_bytes)}) {
    const std::vector<Trial> trials = TrialsOf({name}, bounds);
    EXPECT_LT(mean(std::span(trials).last(8), cost), mean(std::span(trials).subspan(1, 8), cost))
        << name;
  }
  EXPECT_EQ(TrialsOf({}, bounds).size(), 1U + 3 * 8);
  for (const std::string bad : {"macss", "latency_ms"}) try {
      TrialsOf({bad}, bounds);
      FAIL() << "accepted " << bad;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kConfig);
      EXPECT_NE(error.message().find(bad), std::string::npos) << error.message();
      EXPECT_FALSE(error.hint().empty());
    }
}

TEST(TpeUnit, ParzenDensityIntegratesToOneAndDrawsStayInside) {
  const ParzenEstimator estimator({0.2, 0.25, 0.9}, 0.1, 1.0);
  double integral = 0;
  constexpr int kSteps = 20000;
  for (int i = 0; i < kSteps; ++i)
    integral += std::exp(estimator.LogDensity(0.1 + 0.9 * (i + 0.5) / kSteps)) * 0.9 / kSteps;
  EXPECT_NEAR(integral, 1, 1e-4);
  Rng rng(1);
  double mean = 0;
  for (int i = 0; i < 2000; ++i) {
    const double x = estimator.Draw(rng);
    ASSERT_TRUE(x >= 0.1 && x <= 1.0);
    mean += x / 2000;
  }
  double expected = 0;
  for (int i = 0; i < kSteps; ++i) {
    const double x = 0.1 + 0.9 * (i + 0.5) / kSteps;
    expected += x * std::exp(estimator.LogDensity(x)) * 0.9 / kSteps;
  }
  EXPECT_NEAR(mean, expected, 0.03);
}

/// A made-up accuracy: falls with the squared distance of the shares from a hidden optimum.
double MadeUp(const std::vector<double>& point) {
  double loss = 0;
  for (size_t g = 0; g < point.size(); ++g) {
    const double wanted = g % 2 == 0 ? 0.9 : 0.35;
    loss += (point[g] - wanted) * (point[g] - wanted) / static_cast<double>(point.size());
  }
  return 1 - loss;
}

struct Found {
  double uniform = 0, best = 0;  ///< values
  double used = 0;               ///< evaluations
};

/// What a proposer finds on it with `evaluations`, without any network run.
Found Search(Proposer& proposer, const std::string& name, uint64_t seed, double evaluations,
             const Environment& environment) {
  SearchProblem problem{.cost = environment.cost,
                        .budget = environment.budget,
                        .evaluations = static_cast<int64_t>(evaluations)};
  for (size_t g = 0; g < environment.space.groups().size(); ++g) {
    problem.low.push_back(1.0 / static_cast<double>(environment.cost.units()[g]));
    problem.high.push_back(1);
  }
  Found found;
  std::vector<Proposal> asked = {{.decision = Decision(problem.groups(), 1.0)}};
  std::string origin = "uniform";
  for (int64_t number = 0, batches = 0; found.used < evaluations && !proposer.Done(problem);
       ++batches) {
    std::vector<Trial> trials;
    for (const Proposal& proposal : asked) {
      Trial& trial = trials.emplace_back();
      trial.number = number++;
      trial.origin = origin;
      trial.proposal = proposal;
      trial.kept = proposal.as_is ? environment.budget.Nearest(proposal.decision)
                                  : environment.budget.Project(proposal.decision);
      trial.feasible = environment.budget.Feasible(trial.kept);
      trial.value = MadeUp(problem.Point(trial));
      trial.cost.macs = static_cast<double>(trial.kept.size());
      found.used += proposal.fidelity;
      if (trial.feasible && proposal.fidelity == 1) found.best = std::max(found.best, trial.value);
    }
    if (batches == 0) found.uniform = found.best;
    proposer.Tell(problem, trials);
    Rng rng(seed, 0, Str("ask/", batches));
    asked = proposer.Ask(problem, rng);
    origin = name;
  }
  return found;
}

TEST(ProposerProperty, SearchesBeatRandomSearchOnASmoothFunction) {
  const TinyEnvironment tiny;
  const auto mean = [&](const std::string& name) {
    double sum = 0;
    constexpr int kSeeds = 5;
    for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
      const auto proposer = Registry<Proposer>::Global().Create("proposer", name);
      sum += Search(*proposer, name, seed, 200, tiny.Get()).best;
    }
    return sum / kSeeds;
  };
  const double random = mean("random_search");
  for (const std::string name :
       {"annealing", "cma_es", "evolution", "gaussian_process", "successive_halving", "tpe"})
    EXPECT_GE(mean(name), random) << name;
}

TEST(GreedyUnit, ReachesTheBudgetWhereNoGroupAloneSavesAStep) {
  Builder b("chain", 3);
  ValueId x = b.Input("x", {1, 3, 8, 8});
  constexpr int64_t kGroups = 40, kWidth = 16;
  for (int64_t i = 0; i < kGroups; ++i)
    x = b.Relu(b.Conv2d(Str("conv", i), x, i == 0 ? 3 : kWidth, kWidth, {.padding = 1}));
  const Network network = b.Finish({b.Linear("fc", b.Flatten(b.GlobalAvgPool(x)), kWidth, 3)});
  const Space space = BuildSpace(network);
  const CostModel cost(space);
  for (const double fraction : {0.5, 0.1}) {
    BudgetConfig config;
    config.macs = Quantity{fraction, true};
    const Budget budget(cost, config);
    for (const double evaluations : {7.0, 15.0, 60.0, 400.0}) {
      SCOPED_TRACE(Str(fraction, " of the MACs, ", evaluations, " evaluations"));
      const auto greedy = Registry<Proposer>::Global().Create("proposer", "greedy");
      const Found found = Search(*greedy, "greedy", 1, evaluations,
                                 {.space = space, .cost = cost, .budget = budget});
      // One step cannot tell groups apart where halving all of them does not meet the budget.
      if (fraction == 0.5 || evaluations >= 60) {
        EXPECT_GT(found.best, found.uniform);
      }
      EXPECT_LE(found.used, evaluations + 1e-9);
    }
  }
}

TEST(SuccessiveHalvingUnit, RungsDoubleTheSamplesAndHalveTheCandidates) {
  const TinyEnvironment tiny;
  const Environment environment = tiny.Get();
  SearchProblem problem{.cost = environment.cost, .budget = environment.budget, .evaluations = 50};
  problem.low.assign(environment.space.groups().size(), 0.1);
  problem.high.assign(environment.space.groups().size(), 1);
  SuccessiveHalving proposer({.candidates = 16, .eta = 2, .rungs = 4});
  Rng rng(1);
  std::vector<std::pair<size_t, double>> rungs;
  for (int rung = 0; rung < 5; ++rung) {
    const auto asked = proposer.Ask(problem, rng);
    rungs.emplace_back(asked.size(), asked.front().fidelity);
    std::vector<Trial> trials;
    for (const Proposal& proposal : asked) {
      Trial& trial = trials.emplace_back();
      trial.origin = SuccessiveHalving::kName;
      trial.proposal = proposal;
      trial.kept = environment.budget.Project(proposal.decision);
      trial.value = proposal.decision.front();
    }
    if (rung < 3) {
      double least_kept = 0;  // the best half by value goes on
      std::vector<double> values;
      for (const Trial& trial : trials) values.push_back(trial.value);
      std::sort(values.rbegin(), values.rend());
      least_kept = values[values.size() / 2 - 1];
      proposer.Tell(problem, trials);
      for (const Proposal& next : proposer.Ask(problem, rng))
        EXPECT_GE(next.decision.front(), least_kept);
    } else {
      proposer.Tell(problem, trials);
    }
  }
  EXPECT_EQ(rungs, (std::vector<std::pair<size_t, double>>{
                       {16, 0.125}, {8, 0.25}, {4, 0.5}, {2, 1}, {16, 0.125}}));
}

}  // namespace
}  // namespace espalier

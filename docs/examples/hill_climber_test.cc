#include "docs/examples/hill_climber.h"

#include <gtest/gtest.h>

#include "tests/support/tiny_environment.h"

namespace espalier {
namespace {

TEST(HillClimberUnit, MovesToBetterCandidatesOnlyAndAsksAroundThem) {
  const TinyEnvironment tiny;
  const Environment environment = tiny.Get();
  SearchProblem problem{.cost = environment.cost, .budget = environment.budget, .evaluations = 10};
  problem.low.assign(environment.space.groups().size(), 0.1);
  problem.high.assign(environment.space.groups().size(), 1);
  HillClimber climber({.neighbours = 20, .step = 1e-6});
  const std::vector<int64_t> half = environment.budget.Nearest(Decision(problem.groups(), 0.5)),
                             whole = environment.budget.Nearest(Decision(problem.groups(), 1.0));
  const Trial first{.kept = half, .value = 0.3}, worse{.kept = whole, .value = 0.2},
      failed{.failed = true}, dropped{.kept = whole, .value = 0.9, .dropped = true};
  climber.Tell(problem, std::vector<Trial>{first});
  climber.Tell(problem, std::vector<Trial>{worse, failed, dropped});
  Rng rng(1);
  for (const Proposal& proposal : climber.Ask(problem, rng))
    for (size_t g = 0; g < problem.groups(); ++g)
      EXPECT_NEAR(proposal.decision[g], problem.Point(first)[g], 1e-3);
}

}  // namespace
}  // namespace espalier

#include "search/proposers/greedy.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "search/search_loop.h"

namespace espalier {
namespace {

Decision RatiosOf(const SearchProblem& problem, const std::vector<int64_t>& kept) {
  return problem.Point({.kept = kept});
}

}  // namespace

Schema Describe(GreedyConfig& config) {
  Schema schema;
  schema.Add("fidelity", &config.fidelity, "fraction of the samples a step's candidates get",
             RealRange{.low = 0, .high = 1, .open_low = true});
  schema.Add("steps", &config.steps, "on the way to the budget; 0 = what the evaluations allow",
             {.low = 0});
  return schema;
}

double Greedy::Excess(const SearchProblem& problem, const std::vector<int64_t>& kept) {
  const std::vector<double> counts(kept.begin(), kept.end());
  double excess = -std::numeric_limits<double>::infinity();
  for (const Bound& bound : problem.budget.bounds()) {
    const double cost = problem.cost.Evaluate(bound.kind, problem.budget.convention(), counts);
    if (bound.full > bound.limit)
      excess = std::max(excess, (cost - bound.limit) / (bound.full - bound.limit));
  }
  return excess;
}

double Greedy::StepSize(const SearchProblem& problem) const {
  if (config_.steps > 0) return 1.0 / static_cast<double>(config_.steps);
  // The first and the last candidate take a whole evaluation each.
  const double rounds = (static_cast<double>(problem.evaluations) - 2) /
                        (config_.fidelity * static_cast<double>(problem.groups()));
  return 1.0 / std::max(1.0, std::floor(rounds));
}

std::vector<int64_t> Greedy::Shrunk(const SearchProblem& problem, size_t group,
                                    double excess) const {
  const int64_t blocks = problem.cost.blocks()[group];
  const auto with = [&](int64_t count) {
    Decision decision = RatiosOf(problem, kept_);
    decision[group] =
        std::clamp(static_cast<double>(count) / static_cast<double>(problem.cost.units()[group]),
                   problem.low[group], problem.high[group]);
    return problem.budget.Nearest(decision);
  };
  int64_t low = 1, high = kept_[group] / blocks;  // in units a block; cost falls with the count
  if (high <= 1 || Excess(problem, with(low * blocks)) > excess) return {};
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (Excess(problem, with(middle * blocks)) <= excess ? low : high) = middle;
  }
  std::vector<int64_t> shrunk = with(low * blocks);
  return shrunk == kept_ ? std::vector<int64_t>{} : shrunk;
}

std::vector<Proposal> Greedy::Ask(const SearchProblem& problem, Rng&) const {
  const double now = Excess(problem, kept_);
  std::vector<Proposal> batch;
  if (now > 0) {
    const double target = std::max(0.0, now - StepSize(problem));
    for (size_t g = 0; g < problem.groups(); ++g) {
      const std::vector<int64_t> shrunk = Shrunk(problem, g, target);
      if (!shrunk.empty())
        batch.push_back(
            {.decision = RatiosOf(problem, shrunk), .as_is = true, .fidelity = config_.fidelity});
    }
  }
  // Within the budget, or nobody can save a whole step alone: projection does the rest.
  if (batch.empty()) batch.push_back({.decision = RatiosOf(problem, kept_)});
  return batch;
}

void Greedy::Tell(const SearchProblem& problem, std::span<const Trial> batch) {
  if (kept_.empty()) {
    kept_ = problem.budget.Nearest(Decision(problem.groups(), 1.0));
    done_ = problem.budget.bounds().empty();
    return;
  }
  if (!batch.empty() && !batch.front().proposal.as_is) {
    done_ = true;
    return;
  }
  const Trial* best = nullptr;
  for (const Trial& trial : batch)
    if (!trial.failed && (best == nullptr || trial.value > best->value)) best = &trial;
  if (best != nullptr) kept_ = best->kept;
}

ESPALIER_REGISTER_PROPOSER(Greedy, GreedyConfig,
                           {.name = "greedy",
                            .summary = "shrinks, step by step, the group that hurts least",
                            .source = "arXiv:1804.03230, algorithm 1",
                            .facts = {kNeedsData, "deterministic"}})

}  // namespace espalier

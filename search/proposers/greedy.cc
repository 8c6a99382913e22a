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

double Greedy::Fidelity(const SearchProblem& problem) const {
  // The first and the last candidate take a whole evaluation each.
  const double left = std::max(1.0, static_cast<double>(problem.evaluations) - 2);
  return std::min(config_.fidelity, left / static_cast<double>(problem.groups() + 1));
}

double Greedy::RoundCost(const SearchProblem& problem) const {
  return Fidelity(problem) * static_cast<double>(problem.groups() + 1);
}

double Greedy::StepSize(const SearchProblem& problem) const {
  if (config_.steps > 0) return 1.0 / static_cast<double>(config_.steps);
  const double rounds = (static_cast<double>(problem.evaluations) - 2) / RoundCost(problem);
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
  int64_t high = kept_[group] / blocks;  // in units a block; cost falls with the count
  int64_t low = std::max<int64_t>(1, high / 2);
  if (Excess(problem, with(low * blocks)) < excess)
    while (high - low > 1) {
      const int64_t middle = (low + high) / 2;
      (Excess(problem, with(middle * blocks)) <= excess ? low : high) = middle;
    }
  std::vector<int64_t> shrunk = with(low * blocks);
  return Excess(problem, shrunk) < Excess(problem, kept_) ? shrunk : std::vector<int64_t>{};
}

std::vector<Proposal> Greedy::Ask(const SearchProblem& problem, Rng&) const {
  const double now = Excess(problem, kept_);
  std::vector<Proposal> batch;
  const auto add = [&](const std::vector<int64_t>& kept) {
    batch.push_back(
        {.decision = RatiosOf(problem, kept), .as_is = true, .fidelity = Fidelity(problem)});
  };
  const double left = static_cast<double>(problem.evaluations) - used_;
  if (now > 0 && !stuck_ && RoundCost(problem) + 1 <= left + 1e-9) {
    add(kept_);
    for (size_t g = 0; g < problem.groups(); ++g) {
      const std::vector<int64_t> shrunk = Shrunk(problem, g, now - StepSize(problem));
      if (!shrunk.empty()) add(shrunk);
    }
  }
  // Within the budget, or nothing left to save, to spend or to hope for: projection does the rest.
  if (batch.size() <= 1) batch = {{.decision = RatiosOf(problem, kept_)}};
  return batch;
}

void Greedy::Tell(const SearchProblem& problem, std::span<const Trial> batch) {
  for (const Trial& trial : batch) used_ += trial.proposal.fidelity;
  if (kept_.empty()) {
    kept_ = problem.budget.Nearest(Decision(problem.groups(), 1.0));
    done_ = problem.budget.bounds().empty();
    return;
  }
  if (!batch.empty() && !batch.front().proposal.as_is) {
    done_ = true;
    return;
  }
  struct Shrink {
    double loss;  // of the metric, per share of the way that is saved
    const std::vector<int64_t>* kept;
  };
  const double now = Excess(problem, kept_);
  std::vector<Shrink> shrinks;
  for (const Trial& trial : batch.subspan(std::min<size_t>(1, batch.size())))
    if (!trial.failed && !trial.dropped)
      shrinks.push_back(
          {.loss = (batch.front().value - trial.value) / (now - Excess(problem, trial.kept)),
           .kept = &trial.kept});
  std::stable_sort(shrinks.begin(), shrinks.end(),
                   [](const Shrink& a, const Shrink& b) { return a.loss < b.loss; });
  stuck_ = shrinks.empty();  // asked again, they would fail again
  for (const Shrink& shrink : shrinks) {
    for (size_t g = 0; g < kept_.size(); ++g) kept_[g] = std::min(kept_[g], (*shrink.kept)[g]);
    if (Excess(problem, kept_) <= std::max(0.0, now - StepSize(problem))) break;
  }
}

ESPALIER_REGISTER_PROPOSER(Greedy, GreedyConfig,
                           {.name = "greedy",
                            .summary = "shrinks, step by step, the group that hurts least",
                            .source = "arXiv:1804.03230, algorithm 1",
                            .facts = {kNeedsData, "deterministic"}})

}  // namespace espalier

#include "search/proposers/nsga2.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "env/base/error.h"
#include "search/pareto.h"
#include "search/proposers/points.h"
#include "search/search_loop.h"

namespace espalier {

Schema Describe(Nsga2Config& config) {
  const RealRange positive{.low = 0, .open_low = true};
  Schema schema;
  schema.Add("population", &config.population, "candidates a generation", {.low = 4});
  schema.Add("changes", &config.changes, "ratios a mutation changes, on average", {.low = 1});
  schema.Add("sigma", &config.sigma, "of the logarithm of a changed ratio", positive);
  schema.Add("crossover", &config.crossover, "chance of two parents",
             RealRange{.low = 0, .high = 1});
  schema.Add("least", &config.least, "smallest ratio drawn at the start",
             RealRange{.low = 0, .high = 1, .open_low = true});
  schema.Add("costs", &config.costs,
             "objectives beside the metric: macs, params, activation_bytes, latency_ms; empty = "
             "those the budget bounds");
  return schema;
}

const Nsga2::Member& Nsga2::Parent(Rng& rng) const {  // members_ is sorted: the lower index wins
  const uint64_t a = rng.Index(members_.size()), b = rng.Index(members_.size());
  return members_[std::min(a, b)];
}

std::vector<Proposal> Nsga2::Ask(const SearchProblem& problem, Rng& rng) const {
  std::vector<Proposal> batch;
  for (int64_t i = 0; i < config_.population; ++i) {
    Decision child;
    if (static_cast<int64_t>(members_.size()) < config_.population / 2) {
      child = DrawPoint(problem, config_.least, rng);
    } else {
      child = Parent(rng).point;
      if (rng.Uniform() < config_.crossover) {
        const Decision& other = Parent(rng).point;
        for (size_t g = 0; g < child.size(); ++g)
          if (rng.Uniform() < 0.5) child[g] = other[g];
      }
      child =
          Perturb(problem, child, DrawChanges(problem, config_.changes, rng), config_.sigma, rng);
    }
    // Above the budget it is projected; below it is taken as it is.
    const bool within = problem.budget.Feasible(problem.budget.Nearest(child));
    batch.push_back({.decision = std::move(child), .as_is = within});
  }
  return batch;
}

std::vector<CostKind> Nsga2::CostsOf(const SearchProblem& problem) const {
  std::vector<CostKind> kinds;
  if (config_.costs.empty())
    for (const Bound& bound : problem.budget.bounds()) kinds.push_back(bound.kind);
  if (config_.costs.empty() && kinds.empty()) kinds.push_back(CostKind::kMacs);
  std::vector<std::string> names;
  for (const CostKind kind : kCostKinds) names.push_back(CostName(kind));
  for (const std::string& name : config_.costs) {
    const auto found = std::find(names.begin(), names.end(), name);
    if (found == names.end())
      throw Error(ErrorKind::kConfig, Str("[strategy] costs: unknown cost '", name, "'"),
                  SuggestName(name, names));
    kinds.push_back(kCostKinds[static_cast<size_t>(found - names.begin())]);
    if (!problem.cost.Counts(kinds.back()))
      throw Error(ErrorKind::kConfig, Str("[strategy] costs: ", name, " was not measured"),
                  "bound it: [budget] latency_ms");
  }
  return kinds;
}

void Nsga2::Tell(const SearchProblem& problem, std::span<const Trial> batch) {
  const std::vector<CostKind> costs = CostsOf(problem);
  for (const Trial& trial : batch) {
    if (trial.failed) continue;
    members_.push_back({problem.Point(trial), {trial.value}});
    const std::vector<double> kept(trial.kept.begin(), trial.kept.end());
    for (const CostKind kind : costs)
      members_.back().objectives.push_back(
          -problem.cost.Evaluate(kind, problem.budget.convention(), kept));
  }
  std::vector<std::vector<double>> objectives;
  for (const Member& member : members_) objectives.push_back(member.objectives);
  const std::vector<int64_t> ranks = NonDominatedRanks(objectives);
  std::vector<double> crowding(members_.size(), 0);
  for (int64_t rank = 0;; ++rank) {
    std::vector<size_t> front;
    std::vector<std::vector<double>> values;
    for (size_t i = 0; i < members_.size(); ++i)
      if (ranks[i] == rank) {
        front.push_back(i);
        values.push_back(objectives[i]);
      }
    if (front.empty()) break;
    const std::vector<double> distances = CrowdingDistances(values);
    for (size_t i = 0; i < front.size(); ++i) crowding[front[i]] = distances[i];
  }
  std::vector<size_t> order(members_.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return std::pair(ranks[a], -crowding[a]) < std::pair(ranks[b], -crowding[b]);
  });
  std::vector<Member> best;
  for (size_t i = 0; i < std::min(order.size(), static_cast<size_t>(config_.population)); ++i)
    best.push_back(std::move(members_[order[i]]));
  members_ = std::move(best);
}

ESPALIER_REGISTER_PROPOSER(Nsga2, Nsga2Config,
                           {.name = "nsga2",
                            .summary = "a front of accuracy against MACs below the budget",
                            .source = "Deb et al., IEEE Trans. Evol. Comput. 6(2), 2002",
                            .facts = {kNeedsData, "deterministic"}})

}  // namespace espalier

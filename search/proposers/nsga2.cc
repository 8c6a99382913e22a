#include "search/proposers/nsga2.h"

#include <algorithm>
#include <limits>
#include <numeric>

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
  schema.Add("params", &config.params, "parameters as a third objective");
  return schema;
}

namespace {

bool Dominates(const std::vector<double>& a, const std::vector<double>& b) {
  bool better = false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i] < b[i]) return false;
    better = better || a[i] > b[i];
  }
  return better;
}

}  // namespace

std::vector<int64_t> NonDominatedRanks(const std::vector<std::vector<double>>& objectives) {
  std::vector<int64_t> ranks(objectives.size(), -1);
  size_t left = objectives.size();
  for (int64_t rank = 0; left > 0; ++rank) {
    std::vector<size_t> front;
    for (size_t i = 0; i < objectives.size(); ++i) {
      if (ranks[i] >= 0) continue;
      bool dominated = false;
      for (size_t j = 0; j < objectives.size() && !dominated; ++j)
        dominated = ranks[j] < 0 && Dominates(objectives[j], objectives[i]);
      if (!dominated) front.push_back(i);
    }
    for (const size_t i : front) ranks[i] = rank;
    left -= front.size();
  }
  return ranks;
}

std::vector<double> CrowdingDistances(const std::vector<std::vector<double>>& objectives) {
  std::vector<double> distances(objectives.size(), 0);
  if (objectives.empty()) return distances;
  std::vector<size_t> order(objectives.size());
  std::iota(order.begin(), order.end(), 0);
  for (size_t m = 0; m < objectives.front().size(); ++m) {
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return objectives[a][m] < objectives[b][m]; });
    const double span = objectives[order.back()][m] - objectives[order.front()][m];
    distances[order.front()] = distances[order.back()] = std::numeric_limits<double>::infinity();
    if (span <= 0) continue;
    for (size_t i = 1; i + 1 < order.size(); ++i)
      distances[order[i]] += (objectives[order[i + 1]][m] - objectives[order[i - 1]][m]) / span;
  }
  return distances;
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

void Nsga2::Tell(const SearchProblem& problem, std::span<const Trial> batch) {
  for (const Trial& trial : batch) {
    if (trial.failed) continue;
    members_.push_back({problem.Point(trial), {trial.value, -trial.cost.macs}});
    if (config_.params) members_.back().objectives.push_back(-trial.cost.params);
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

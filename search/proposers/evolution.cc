#include "search/proposers/evolution.h"

#include "search/proposers/points.h"
#include "search/search_loop.h"

namespace espalier {

Schema Describe(EvolutionConfig& config) {
  const RealRange chance{.low = 0, .high = 1};
  Schema schema;
  schema.Add("population", &config.population, "trials that may become parents; the paper: 100",
             {.low = 2});
  schema.Add("tournament", &config.tournament, "of which the best is a parent; the paper: 25",
             {.low = 1});
  schema.Add("batch", &config.batch, "children of one generation", {.low = 1});
  schema.Add("changes", &config.changes, "ratios a mutation changes, on average", {.low = 1});
  schema.Add("sigma", &config.sigma, "of the logarithm of a changed ratio",
             RealRange{.low = 0, .open_low = true});
  schema.Add("crossover", &config.crossover, "chance of a second parent", chance);
  schema.Add("least", &config.least, "smallest ratio drawn at the start",
             RealRange{.low = 0, .high = 1, .open_low = true});
  return schema;
}

const Evolution::Member& Evolution::Parent(Rng& rng) const {
  const Member* best = nullptr;
  for (int64_t i = 0; i < config_.tournament; ++i) {
    const Member& drawn = members_[rng.Index(members_.size())];
    if (best == nullptr || drawn.value > best->value) best = &drawn;
  }
  return *best;
}

std::vector<Proposal> Evolution::Ask(const SearchProblem& problem, Rng& rng) const {
  std::vector<Proposal> batch;
  for (int64_t i = 0; i < config_.batch; ++i) {
    // Half of the first population is random, so that it has something to choose from.
    if (static_cast<int64_t>(members_.size()) < config_.population / 2 + 1) {
      batch.push_back({.decision = DrawPoint(problem, config_.least, rng)});
      continue;
    }
    Decision child = Parent(rng).point;
    if (rng.Uniform() < config_.crossover) {
      const Decision& other = Parent(rng).point;
      for (size_t g = 0; g < child.size(); ++g)
        if (rng.Uniform() < 0.5) child[g] = other[g];
    }
    const int64_t changes = DrawChanges(problem, config_.changes, rng);
    batch.push_back({.decision = Perturb(problem, child, changes, config_.sigma, rng)});
  }
  return batch;
}

void Evolution::Tell(const SearchProblem& problem, std::span<const Trial> batch) {
  for (const Trial& trial : batch) {
    if (trial.failed) continue;
    members_.push_back({problem.Point(trial), trial.value});
    if (static_cast<int64_t>(members_.size()) > config_.population) members_.pop_front();
  }
}

ESPALIER_REGISTER_PROPOSER(Evolution, EvolutionConfig,
                           {.name = "evolution",
                            .summary = "mutates the best of a random few; the oldest die",
                            .source = "arXiv:1802.01548, algorithm 1",
                            .facts = {kNeedsData, "deterministic"}})

}  // namespace espalier

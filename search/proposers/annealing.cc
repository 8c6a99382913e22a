#include "search/proposers/annealing.h"

#include <algorithm>
#include <cmath>

#include "search/proposers/points.h"
#include "search/search_loop.h"

namespace espalier {

Schema Describe(AnnealingConfig& config) {
  const RealRange positive{.low = 0, .open_low = true};
  Schema schema;
  schema.Add("start", &config.start, "random candidates at the start", {.low = 2});
  schema.Add("batch", &config.batch, "neighbours tried side by side", {.low = 1});
  schema.Add("temperature", &config.temperature,
             "at the start, in standard deviations of the first values", positive);
  schema.Add("cooling", &config.cooling, "temperature at the end, as a fraction of the start's",
             RealRange{.low = 0, .high = 1, .open_low = true});
  schema.Add("changes", &config.changes, "ratios a step changes, on average", {.low = 1});
  schema.Add("sigma", &config.sigma, "of the logarithm of a changed ratio", positive);
  schema.Add("least", &config.least, "smallest ratio drawn at the start",
             RealRange{.low = 0, .high = 1, .open_low = true});
  return schema;
}

std::vector<Proposal> Annealing::Ask(const SearchProblem& problem, Rng& rng) const {
  std::vector<Proposal> batch;
  if (static_cast<int64_t>(first_.size()) < config_.start) {
    for (int64_t i = 0; i < config_.start; ++i)
      batch.push_back({.decision = DrawPoint(problem, config_.least, rng)});
    return batch;
  }
  for (int64_t i = 0; i < config_.batch; ++i)
    batch.push_back(
        {.decision = Perturb(problem, point_, DrawChanges(problem, config_.changes, rng),
                             config_.sigma, rng)});
  return batch;
}

double Annealing::Temperature(const SearchProblem& problem) const {
  double sum = 0, squares = 0;
  for (const double value : first_) {
    sum += value;
    squares += value * value;
  }
  const auto n = static_cast<double>(first_.size());
  const double spread = std::sqrt(std::max(squares / n - sum * sum / n / n, 1e-12));
  const double progress = std::min(1.0, used_ / static_cast<double>(problem.evaluations));
  return spread * config_.temperature * std::pow(config_.cooling, progress);
}

void Annealing::Tell(const SearchProblem& problem, std::span<const Trial> batch) {
  for (const Trial& trial : batch) {
    used_ += trial.proposal.fidelity;
    if (trial.failed) continue;
    const bool starting = static_cast<int64_t>(first_.size()) < config_.start;
    bool take = point_.empty() || trial.value >= value_;
    if (starting) {
      first_.push_back(trial.value);
    } else if (!take) {
      Rng draw(problem.seed, static_cast<uint64_t>(trial.number), "annealing/accept");
      take = draw.Uniform() < std::exp((trial.value - value_) / Temperature(problem));
    }
    if (!take) continue;
    point_ = problem.Point(trial);
    value_ = trial.value;
  }
}

ESPALIER_REGISTER_PROPOSER(Annealing, AnnealingConfig,
                           {.name = "annealing",
                            .summary = "neighbours of one candidate, worse ones ever more seldom",
                            .source = "Kirkpatrick et al., Science 220, 1983",
                            .facts = {kNeedsData, "deterministic"}})

}  // namespace espalier

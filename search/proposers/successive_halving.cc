#include "search/proposers/successive_halving.h"

#include <algorithm>
#include <cmath>

#include "search/proposers/points.h"
#include "search/search_loop.h"

namespace espalier {

Schema Describe(SuccessiveHalvingConfig& config) {
  Schema schema;
  schema.Add("candidates", &config.candidates, "in the first rung of a bracket", {.low = 2});
  schema.Add("eta", &config.eta, "one in eta goes on, with eta times the samples", {.low = 1.1});
  schema.Add("rungs", &config.rungs, "of a bracket; the last one sees all samples", {.low = 1});
  schema.Add("local", &config.local, "share of later candidates drawn near the best so far",
             RealRange{.low = 0, .high = 1});
  schema.Add("least", &config.least, "smallest ratio drawn",
             RealRange{.low = 0, .high = 1, .open_low = true});
  return schema;
}

double SuccessiveHalving::Fidelity(int64_t rung) const {
  return std::pow(config_.eta, static_cast<double>(rung - config_.rungs + 1));
}

int64_t SuccessiveHalving::Wanted(int64_t batch) const {
  return std::max<int64_t>(1, static_cast<int64_t>(static_cast<double>(batch) / config_.eta));
}

std::vector<Proposal> SuccessiveHalving::Ask(const SearchProblem& problem, Rng& rng) const {
  std::vector<Proposal> batch;
  for (const Decision& decision : going_on_)
    batch.push_back({.decision = decision, .fidelity = Fidelity(rung_)});
  if (!batch.empty()) return batch;
  constexpr size_t kParents = 4;
  constexpr double kChanges = 3, kSigma = 0.3;
  for (int64_t i = 0; i < config_.candidates; ++i) {
    Decision decision;
    if (!finished_.empty() && rng.Uniform() < config_.local) {
      const Decision& parent = finished_[rng.Index(std::min(kParents, finished_.size()))].second;
      decision = Perturb(problem, parent, DrawChanges(problem, kChanges, rng), kSigma, rng);
    } else {
      decision = DrawPoint(problem, config_.least, rng);
    }
    batch.push_back({.decision = std::move(decision), .fidelity = Fidelity(0)});
  }
  return batch;
}

void SuccessiveHalving::Tell(const SearchProblem& problem, std::span<const Trial> batch) {
  std::vector<const Trial*> ranked;
  for (const Trial& trial : batch)
    if (!trial.failed) ranked.push_back(&trial);
  // A dropped one was seen on fewer samples: it goes behind those that were not.
  std::stable_sort(ranked.begin(), ranked.end(), [](const Trial* a, const Trial* b) {
    return std::pair(!a->dropped, a->value) > std::pair(!b->dropped, b->value);
  });
  const bool asked = !batch.empty() && batch.front().origin == kName;
  if (!asked || rung_ + 1 == config_.rungs) {
    for (const Trial* trial : ranked)
      if (!trial->dropped) finished_.emplace_back(trial->value, problem.Point(*trial));
    std::stable_sort(finished_.begin(), finished_.end(),
                     [](const auto& a, const auto& b) { return a.first > b.first; });
    rung_ = 0;
    going_on_.clear();
    return;
  }
  const auto most = static_cast<size_t>(Wanted(static_cast<int64_t>(batch.size())));
  going_on_.clear();
  for (size_t i = 0; i < std::min(most, ranked.size()); ++i)
    going_on_.push_back(ranked[i]->proposal.decision);
  rung_ = going_on_.empty() ? 0 : rung_ + 1;
}

ESPALIER_REGISTER_PROPOSER(SuccessiveHalving, SuccessiveHalvingConfig,
                           {.name = "successive_halving",
                            .summary = "many candidates on few samples, the best on all",
                            .source = "arXiv:1502.07943, figure 3",
                            .facts = {kNeedsData, "deterministic"}})

}  // namespace espalier

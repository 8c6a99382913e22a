#include "search/proposers/random_search.h"

#include "search/proposers/points.h"
#include "search/search_loop.h"

namespace espalier {

Schema Describe(RandomProposerConfig& config) {
  Schema schema;
  schema.Add("least", &config.least, "smallest ratio drawn, before projection to the budget",
             RealRange{.low = 0, .high = 1, .open_low = true});
  schema.Add("batch", &config.batch, "candidates that race against each other", {.low = 1});
  return schema;
}

std::vector<Proposal> RandomProposer::Ask(const SearchProblem& problem, Rng& rng) const {
  std::vector<Proposal> batch;
  for (int64_t i = 0; i < config_.batch; ++i)
    batch.push_back({.decision = DrawPoint(problem, config_.least, rng)});
  return batch;
}

ESPALIER_REGISTER_PROPOSER(RandomProposer, RandomProposerConfig,
                           {.name = "random_search",
                            .summary = "independent random ratios, the best of many",
                            .source = "Bergstra & Bengio, JMLR 13, 2012",
                            .facts = {kNeedsData, "deterministic"}})

}  // namespace espalier

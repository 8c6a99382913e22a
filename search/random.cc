#include "search/random.h"

#include "env/base/clock.h"

namespace espalier {

Schema Describe(RandomSearchConfig& config) {
  Schema schema;
  schema.Add("ratios", &config.ratios, "one keep ratio for all groups, or one drawn per group",
             {"uniform", "random"});
  schema.Add("least", &config.least, "smallest ratio drawn, before projection to the budget",
             RealRange{.low = 0, .high = 1, .open_low = true});
  return schema;
}

std::vector<std::vector<double>> RandomScores(const Space& space, Rng& rng) {
  std::vector<std::vector<double>> scores;
  for (const Group& group : space.groups()) {
    std::vector<double>& drawn = scores.emplace_back();
    for (int64_t unit = 0; unit < group.units; ++unit) drawn.push_back(rng.Uniform());
  }
  return scores;
}

SearchResult RandomSearch::Run(const Environment& environment, SearchContext& context) const {
  const Timer timer;
  Rng rng = context.Stream("random");
  Decision decision(environment.space.groups().size(), 1.0);
  if (config_.ratios == "random") {
    for (double& ratio : decision) ratio = rng.Uniform(config_.least, 1.0);
  }
  SearchResult result;
  result.scores = RandomScores(environment.space, rng);
  result.selection =
      SelectTop(environment.space, result.scores, environment.budget.Project(decision));
  result.info = {{"ratios", config_.ratios}};
  result.seconds = timer.Seconds();
  return result;
}

ESPALIER_REGISTER_STRATEGY(RandomSearch, RandomSearchConfig,
                           {.name = "random",
                            .summary = "random units, one ratio or random ratios",
                            .source = "control",
                            .facts = {"deterministic"}})

}  // namespace espalier

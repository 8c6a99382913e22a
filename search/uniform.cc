#include "search/uniform.h"

#include "env/base/clock.h"
#include "search/unit_scores.h"

namespace espalier {

Schema Describe(UniformConfig& config) {
  Schema schema;
  schema.Add("criterion", &config.criterion,
             "how units are ranked: NAME or NAME(key=value, ...); `espalier list criteria`");
  return schema;
}

Uniform::Uniform(const UniformConfig& config) : config_(config) { MakeCriterion(config.criterion); }

SearchResult Uniform::Run(const Environment& environment, SearchContext& context) const {
  const Timer timer;
  SearchResult result;
  result.scores = ScoreUnits(config_.criterion, environment, context, "uniform").scores;
  const Decision all(environment.space.groups().size(), 1.0);  // projection finds the common factor
  const std::vector<int64_t> kept = environment.budget.Project(all);
  result.selection = SelectTop(environment.space, result.scores, kept);
  result.info = {{"criterion", config_.criterion}};
  result.seconds = timer.Seconds();
  return result;
}

ESPALIER_REGISTER_STRATEGY(Uniform, UniformConfig,
                           {.name = "uniform",
                            .summary = "one keep ratio for all groups, units by a criterion",
                            .source = "baseline; arXiv:1608.08710",
                            .facts = {"deterministic"}})

}  // namespace espalier

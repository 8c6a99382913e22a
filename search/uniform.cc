#include "search/uniform.h"

#include <chrono>

#include "criteria/criterion.h"

namespace espalier {

Schema Describe(UniformConfig& config) {
  Schema schema;
  schema.Add("criterion", &config.criterion,
             "how units are ranked: NAME or NAME(key=value, ...), one that needs no data; "
             "`espalier list criteria`");
  return schema;
}

Uniform::Uniform(const UniformConfig& config) : config_(config) { MakeCriterion(config.criterion); }

SearchResult Uniform::Run(const Environment& environment, SearchContext& context) const {
  const auto start = std::chrono::steady_clock::now();
  const auto criterion = MakeCriterion(config_.criterion);
  SearchResult result;
  result.scores = ScoreGroups(*criterion, environment.space, environment.network().store,
                              StreamSeed(context.seed, context.trial, "uniform/criterion"));
  const Decision all(environment.space.groups().size(), 1.0);  // projection finds the common factor
  const std::vector<int64_t> kept = environment.budget.Project(all);
  result.selection = SelectTop(environment.space, result.scores, kept);
  result.info = {{"criterion", config_.criterion}};
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

ESPALIER_REGISTER_STRATEGY(Uniform, UniformConfig,
                           {.name = "uniform",
                            .summary = "one keep ratio for all groups, units by a criterion",
                            .source = "baseline; arXiv:1608.08710",
                            .facts = {"deterministic"}})

}  // namespace espalier

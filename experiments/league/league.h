#pragma once

#include <nlohmann/json.hpp>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "env/cost/budget.h"
#include "env/data/splits.h"
#include "env/space/space.h"
#include "env/task/task.h"
#include "experiments/model_source.h"
#include "experiments/run_config.h"
#include "experiments/run_folder.h"

namespace espalier {

/// [league]: who plays, and by which rules.
struct LeagueRules {
  /// Any registered strategies, with options: "uniform", "ranking(criterion=taylor, scope=global)".
  std::vector<std::string> strategies;
  std::vector<double> macs = {0.5};  ///< budgets: fractions of the uncut network's multiply-adds
  std::vector<int64_t> seeds = {1, 2, 3};
  int64_t evaluations = 200;       ///< of every search that evaluates candidates
  int64_t samples = 2000;          ///< of one such evaluation
  std::string precision = "fp32";  ///< of it
  /// Methods the others have to beat; names or whole entries. Those that do not play are ignored.
  std::vector<std::string> baselines = {"uniform", "mac_proportional", "random_search", "ranking"};
};
Schema Describe(LeagueRules& rules);

/// A whole league, read once at the edge.
struct LeagueConfig {
  ModelConfig model;
  DataConfig data;
  TaskConfig task;
  BudgetConfig budget;  ///< bounds beside [league] macs, round_to, min_keep, convention
  LatencyConfig latency;
  SpaceConfig space;
  LeagueRules rules;
  RunSettings run;  ///< its seed draws random weights and nothing else
  std::filesystem::path path;
  std::string resolved_toml;
};
/// Errors: kConfig listing every problem of every table at once.
LeagueConfig LoadLeagueConfig(const std::filesystem::path& path,
                              const std::vector<std::string>& overrides);

/// Strategies at equal budget, evaluations, data and seeds; the winner of each search is chosen on
/// validation samples and reported on test samples, right after the cut, without fine-tuning.
///
/// Honest    where the weights have seen the validation samples (data.seen = "train"), the first
///           half of the test samples takes their place and results are reported on the other half.
/// State     a run folder; every (budget, strategy, seed) is a stage: the same line again plays
/// only
///           what is missing. One that fails is recorded with its cause, and the league goes on.
class League {
 public:
  explicit League(const LeagueConfig& config);  ///< loads and checks; writes nothing
  /// Plays what is left; writes league.json and report.html after every seed. Returns the former.
  nlohmann::ordered_json Run(RunFolder& folder);

 private:
  nlohmann::ordered_json Play(RunFolder& folder, const std::string& stage, const Budget& budget,
                              const std::string& entry, int64_t seed);
  nlohmann::ordered_json Table(const RunFolder& folder) const;
  std::string StageOf(size_t budget, size_t entry, int64_t seed) const;
  std::vector<int64_t> Played(const RunFolder& folder, size_t budget) const;  ///< whole seeds

  const LeagueConfig& config_;
  const at::Device device_;
  ModelSource source_;
  DataConfig data_;
  bool half_of_test_ = false;
  std::optional<Splits> splits_;
  Task task_;
  std::optional<Space> space_;
  std::optional<CostModel> cost_;
  std::vector<std::unique_ptr<Budget>> budgets_;
};

}  // namespace espalier

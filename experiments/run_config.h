#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "env/base/config.h"
#include "env/cost/budget.h"
#include "env/data/splits.h"
#include "env/latency/latency.h"
#include "env/space/space.h"
#include "env/task/task.h"
#include "env/train/trainer.h"
#include "experiments/model_source.h"
#include "experiments/settings.h"
#include "search/refine.h"
#include "search/sparsify.h"
#include "search/strategy.h"

namespace espalier {

/// [space]: what may be pruned. The defaults are SpaceOptions's.
struct SpaceConfig {
  bool decouple_residuals = false;
  std::vector<std::string> exclude;
  std::string attention = "dims";
  bool depth = false;
};
Schema Describe(SpaceConfig& config);
SpaceOptions ToOptions(const SpaceConfig& config);

/// [controls]: strategies run at the same budget and seed, with their defaults, for comparison.
struct ControlsConfig {
  std::vector<std::string> strategies;
};
Schema Describe(ControlsConfig& config);

/// A whole pruning run, read once at the edge.
struct RunConfig {
  ModelConfig model;
  DataConfig data;
  TaskConfig task;
  BudgetConfig budget;
  LatencyConfig latency;
  SpaceConfig space;
  SparsifyConfig sparsify;  ///< epochs = 0: none, the default
  RefineConfig refine;
  TrainConfig finetune;  ///< epochs = 0: no fine-tuning, the default without a [finetune] table
  ControlsConfig controls;
  RunSettings run;
  std::string strategy_name;
  std::shared_ptr<const Strategy> strategy;
  std::filesystem::path path;
  std::string resolved_toml;  ///< every key with its value and where it comes from
  bool wants_latency() const { return budget.latency_ms || latency.report; }
};

/// Errors: kConfig listing every problem of every table at once.
RunConfig LoadRunConfig(const std::filesystem::path& path,
                        const std::vector<std::string>& overrides);

}  // namespace espalier

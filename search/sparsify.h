#pragma once

#include <nlohmann/json.hpp>

#include <functional>
#include <string>

#include "env/train/trainer.h"
#include "search/strategy.h"

namespace espalier {

/// [sparsify]: training of the uncut network before anything is chosen. epochs = 0: none, the
/// default. The other defaults are DepGraph's on CIFAR-10, where epochs = 100.
struct SparsifyConfig {
  std::string regulariser = "group_sparsity";  ///< NAME or NAME(key=value, ...)
  TrainConfig train{
      .epochs = 0, .lr = 0.01, .weight_decay = 0, .schedule = "step", .milestones = {60, 80}};
};
Schema Describe(SparsifyConfig& config);

/// Trains the uncut network with a regulariser that makes whole units small, so that any criterion
/// finds units which are hardly missed.
///
/// Source   Fang et al., "DepGraph: Towards Any Structural Pruning", arXiv:2301.12900, section 3.3;
///          the regulariser's own.
/// State    the training's checkpoint in context.folder, the regulariser's memory included: resumes
///          bit for bit on CPU.
/// Errors   those of Train; kConfig without data or for an unknown regulariser; kModel when the
///          network has nothing the regulariser acts on.
/// Random   as Train, from the context's seed.
/// Cost     an epoch: one of training, and a few passes over the weights a step.
struct SparsifyResult {
  Network network;  ///< the environment's, with other weights; on the CPU
  std::vector<EpochRecord> history;
  /// "regulariser"; "penalty": [epochs] at each epoch's end; "norms": [epochs + 1][21], before and
  /// after each epoch: percentiles 0, 5, ..., 100 of all units' norms I_k, each relative to the
  /// largest of its group.
  nlohmann::json info;
};
SparsifyResult Sparsify(const Environment& environment, const SparsifyConfig& config,
                        const SearchContext& context,
                        const std::function<void(const EpochRecord&)>& on_epoch = {});

}  // namespace espalier

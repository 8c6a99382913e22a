#pragma once

#include <nlohmann/json.hpp>

#include <string>

#include "env/base/config.h"
#include "env/space/plan.h"
#include "search/strategy.h"

namespace espalier {

/// What happens to a cut network before any fine-tuning. Everything is off by default: the cut is
/// then exactly what the strategy chose.
struct RefineConfig {
  int64_t batch_size = 64;          ///< of every step below
  int64_t compensate_batches = 0;   ///< batches the least-squares compensation sees; 0 = off
  double ridge = 1e-3;              ///< relative to the mean diagonal of the Gram matrix; > 0
  bool residual = true;             ///< compensated branches aim at the uncut sum minus the trunk
  int64_t recalibrate_batches = 0;  ///< batches that re-estimate batch-norm statistics; 0 = off
  int64_t tune_batches = 0;      ///< steps that tune normalisation scales, shifts, biases; 0 = off
  double tune_lr = 0.01;         ///< Adam, cosine to 0
  std::string tune_loss = "kl";  ///< against the uncut outputs: kl, mse_outputs
  double temperature = 1.0;      ///< of the kl loss
  bool augment = true;           ///< training augmentation on the samples used
};
Schema Describe(RefineConfig& config);
bool IsOn(const RefineConfig& config);  ///< any step is asked for

/// Restores a cut network's outputs without training its weights: closed-form compensation of the
/// layers that lost inputs, batch-norm re-estimation, and tuning of normalisation parameters and
/// linear biases against the uncut network's outputs. Labels are not used.
///
/// Source   compensation: He, Zhang, Sun, "Channel Pruning for Accelerating Very Deep Neural
///          Networks", arXiv:1707.06168, §3.1 (least squares given the channels); the rest is
///          usual.
/// Errors   kConfig without data; kInterrupted on request (nothing is kept: a rerun starts over).
/// Random   data order and augmentation from the stream "refine/data".
/// Cost     compensation: one forward of both networks over its batches; tuning: forward and
///          backward of the cut network and a forward of the uncut one per batch.
struct RefineResult {
  Network network;      ///< same graph as `cut`, other parameters
  nlohmann::json info;  ///< batches used, losses before and after
};
RefineResult Refine(const Environment& environment, const Plan& plan, const Network& cut,
                    const RefineConfig& config, SearchContext& context);

}  // namespace espalier

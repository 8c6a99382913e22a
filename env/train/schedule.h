#pragma once

#include "env/train/trainer.h"

namespace espalier {

/// Learning rate of step `step` (from 0) of a training with `steps_per_epoch`.
///
/// cosine     lr (1 + cos(pi p)) / 2 over the share p of the steps after the warm-up.
/// step       lr gamma^k after the k-th milestone (in epochs).
/// one_cycle  linear rise over warmup_epochs (0: 30 % of the training), then linear fall to 0:
///            Smith, Topin, arXiv:1708.07120 §3 without its momentum cycle.
/// constant   lr.
/// Warm-up of all: linear from lr / 100 at step 0 to lr.
double LearningRate(const TrainConfig& config, int64_t step, int64_t steps_per_epoch);

}  // namespace espalier

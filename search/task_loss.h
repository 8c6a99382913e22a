#pragma once

#include "criteria/statistics.h"
#include "search/strategy.h"

namespace espalier {

/// The loss whose gradients at the uncut network tell criteria what matters
/// (Task::MakeSensitivity), for calibration batches on the environment's device.
CalibrationLoss TaskLoss(const Environment& environment);

/// The task's own loss (Task::MakeObjective), for what measures it without a gradient: without
/// labels 0 at the uncut network and more for whatever moves its outputs. The uncut network runs
/// once for each batch. Borrows the environment.
std::function<BatchLoss(const Batch& batch)> TaskObjective(const Environment& environment);

}  // namespace espalier

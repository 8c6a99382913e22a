#pragma once

#include "criteria/statistics.h"
#include "search/strategy.h"

namespace espalier {

/// The loss whose gradients at the uncut network tell criteria what matters
/// (Task::MakeSensitivity), for calibration batches on the environment's device.
CalibrationLoss TaskLoss(const Environment& environment);

}  // namespace espalier

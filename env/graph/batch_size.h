#pragma once

#include <cstdint>

#include "env/graph/network.h"

namespace espalier {

/// The most samples a forward takes at a time, up to `most`, within `bytes` of values that are
/// alive at once (its outputs counted several times, for what losses and metrics make of them); at
/// least
/// 1. A network whose batch is fixed takes as many as it was recorded with.
///
/// Cost     shapes only.
int64_t FittingBatch(const Network& network, int64_t most, int64_t bytes = int64_t{1} << 30);

}  // namespace espalier

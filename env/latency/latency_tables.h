#pragma once

#include "env/cost/latency_model.h"
#include "env/latency/latency.h"
#include "env/latency/latency_cache.h"
#include "env/latency/meter.h"
#include "env/latency/op_calls.h"
#include "env/space/space.h"

namespace espalier {

/// A table for every op that is measured, uncorrected. Counts its points in `result`, and the ops
/// that could not be measured alone. What a busy machine disturbed is measured again.
LatencyModel MeasureTables(const Space& space, const OpCalls& calls, Meter& meter,
                           LatencyCache& cache, MeasuredLatency& result);

}  // namespace espalier

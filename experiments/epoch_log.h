#pragma once

#include <nlohmann/json.hpp>

#include <functional>
#include <string>
#include <vector>

#include "env/train/trainer.h"
#include "experiments/metric_log.h"

namespace espalier {

/// Tells the metrics and the log of every epoch of a stage. Borrows metrics.
std::function<void(const EpochRecord&)> EpochLog(MetricLog& metrics, const std::string& stage,
                                                 int64_t epochs, const std::string& metric);

/// "history" and "seconds" of a training, for its stage's marker.
nlohmann::ordered_json TrainingJson(const std::vector<EpochRecord>& history,
                                    const std::string& metric);

}  // namespace espalier

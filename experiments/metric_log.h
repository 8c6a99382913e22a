#pragma once

#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "experiments/event_file.h"
#include "experiments/run_store.h"

namespace espalier {

/// Sends every measured value of a run to run.db, metrics.jsonl and the TensorBoard events.
///
/// After a resume, the steps since the last checkpoint appear again in metrics.jsonl and in the
/// events: a reader takes the last value of a (stage, step, name).
class MetricLog {
 public:
  explicit MetricLog(const std::filesystem::path& folder);
  void Add(const std::string& stage, int64_t step, std::string_view name, double value);
  RunStore& store() { return store_; }

 private:
  RunStore store_;
  std::ofstream lines_;
  EventFile events_;
};

}  // namespace espalier

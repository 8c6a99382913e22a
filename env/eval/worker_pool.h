#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "env/base/clock.h"
#include "env/base/tensor.h"

namespace espalier {

/// How work is spread: so many workers side by side, each with so many threads inside an operator.
struct WorkerSetting {
  int64_t workers = 1, threads = 1;
  bool operator==(const WorkerSetting&) const = default;
};

/// All ways to spend so many cores without rest, most workers first: 4 x 1, 2 x 2, 1 x 4.
std::vector<WorkerSetting> WorkerSettings(int64_t cores);

/// The setting of which `seconds` is least; it may refuse one with nullopt. The first one when all
/// are refused, or on a draw.
WorkerSetting FastestOf(const std::vector<WorkerSetting>& settings,
                        const std::function<std::optional<double>(const WorkerSetting&)>& seconds);

/// The setting under which every worker doing `work` once takes least time for each. One that
/// throws, or whose results differ in any bit from those of the first setting, is not taken.
WorkerSetting MeasuredSetting(const std::vector<WorkerSetting>& settings,
                              const std::function<std::vector<Tensor>()>& work, const Clock& clock);

/// Runs body(0), ..., body(tasks - 1) on the workers of a setting; gives every thread back the
/// number of threads it had. The first exception of a task is thrown again here.
void RunOnWorkers(const WorkerSetting& setting, size_t tasks,
                  const std::function<void(size_t)>& body);

}  // namespace espalier

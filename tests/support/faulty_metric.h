#pragma once

#include <atomic>
#include <functional>
#include <stdexcept>
#include <utility>

#include "env/task/metric.h"

namespace espalier {

/// Accuracy that goes wrong when the test says so: what an evaluation runs into in its middle.
class FaultyMetric final : public Metric {
 public:
  static constexpr const char* kName = "faulty_accuracy";
  explicit FaultyMetric(NoConfig)
      : accuracy_(Registry<Metric>::Global().Create("metric", "accuracy")) {}
  Tensor Statistics(const Outcome& outcome, const MetricOptions& options) const override {
    const int64_t call = ++calls();
    if (fault()) fault()(call);
    return accuracy_->Statistics(outcome, options);
  }

  /// While it lives, called with the number of the call, 1, 2, ...; may throw. By several threads.
  class Scope {
   public:
    explicit Scope(std::function<void(int64_t call)> wanted) {
      calls() = 0;
      fault() = std::move(wanted);
    }
    ~Scope() { fault() = {}; }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;
  };

 private:
  static std::atomic<int64_t>& calls() {
    static std::atomic<int64_t> count;
    return count;
  }
  static std::function<void(int64_t)>& fault() {
    static std::function<void(int64_t)> wanted;
    return wanted;
  }
  const std::unique_ptr<const Metric> accuracy_;
};
inline const Registration<Metric, FaultyMetric, NoConfig> register_faulty_metric(
    {.name = FaultyMetric::kName,
     .summary = "accuracy with faults, for tests",
     .source = "ours",
     .facts = {kPercent}});

}  // namespace espalier

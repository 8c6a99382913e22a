#include "env/eval/worker_pool.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <tbb/blocked_range.h>
#include <tbb/global_control.h>
#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>
#include <tbb/task_scheduler_observer.h>

#include <algorithm>

#include "env/base/error.h"

namespace espalier {
namespace {

/// Gives every worker its number of threads inside an operator, and back what it had.
class ThreadCounts final : public tbb::task_scheduler_observer {
 public:
  ThreadCounts(tbb::task_arena& arena, int threads)
      : tbb::task_scheduler_observer(arena), threads_(threads) {
    observe(true);
  }
  ~ThreadCounts() override { observe(false); }
  void on_scheduler_entry(bool) override {
    Before() = at::get_num_threads();
    at::set_num_threads(threads_);
  }
  void on_scheduler_exit(bool) override { at::set_num_threads(Before()); }

 private:
  static int& Before() {
    thread_local int before = 1;
    return before;
  }
  const int threads_;
};

}  // namespace

std::vector<WorkerSetting> WorkerSettings(int64_t cores) {
  ESPALIER_CHECK(cores > 0, cores, " cores");
  std::vector<WorkerSetting> settings;
  for (int64_t threads = 1; threads <= cores; ++threads)
    if (cores % threads == 0) settings.push_back({cores / threads, threads});
  return settings;
}

WorkerSetting FastestOf(const std::vector<WorkerSetting>& settings,
                        const std::function<std::optional<double>(const WorkerSetting&)>& seconds) {
  WorkerSetting best = settings.front();
  std::optional<double> least;
  for (const WorkerSetting& setting : settings)
    if (const auto taken = seconds(setting); taken && (!least || *taken < *least)) {
      least = taken;
      best = setting;
    }
  return best;
}

WorkerSetting MeasuredSetting(const std::vector<WorkerSetting>& settings,
                              const std::function<std::vector<Tensor>()>& work,
                              const Clock& clock) {
  std::optional<std::vector<Tensor>> first;
  const auto same = [](const Tensor& a, const Tensor& b) { return at::equal(a, b); };
  return FastestOf(settings, [&](const WorkerSetting& setting) -> std::optional<double> {
    std::vector<std::vector<Tensor>> results(static_cast<size_t>(setting.workers));
    const auto run = [&] {
      RunOnWorkers(setting, results.size(), [&](size_t i) { results[i] = work(); });
    };
    try {
      run();  // also warms up
      if (!first) first = results.front();
      for (const auto& made : results)
        if (!std::equal(made.begin(), made.end(), first->begin(), first->end(), same))
          return std::nullopt;
      const double start = clock();
      run();
      return (clock() - start) / static_cast<double>(setting.workers);
    } catch (const std::exception&) {  // out of memory, say
      return std::nullopt;
    }
  });
}

void RunOnWorkers(const WorkerSetting& setting, size_t tasks,
                  const std::function<void(size_t)>& body) {
  const tbb::global_control allowed(tbb::global_control::max_allowed_parallelism,
                                    static_cast<size_t>(setting.workers));
  tbb::task_arena arena(static_cast<int>(setting.workers));
  const ThreadCounts counts(arena, static_cast<int>(setting.threads));
  arena.execute([&] {
    tbb::parallel_for(
        tbb::blocked_range<size_t>(0, tasks, 1),
        [&](const auto& range) {
          for (size_t i = range.begin(); i < range.end(); ++i) body(i);
        },
        tbb::simple_partitioner());
  });
}

}  // namespace espalier

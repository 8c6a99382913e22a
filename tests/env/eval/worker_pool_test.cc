#include "env/eval/worker_pool.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <stdexcept>

namespace espalier {
namespace {

TEST(WorkerPoolUnit, SettingsSpendAllCoresInEveryWay) {
  EXPECT_EQ(WorkerSettings(1), (std::vector<WorkerSetting>{{1, 1}}));
  EXPECT_EQ(WorkerSettings(6), (std::vector<WorkerSetting>{{6, 1}, {3, 2}, {2, 3}, {1, 6}}));
}

TEST(WorkerPoolUnit, TheFastestIsTakenAndWhatIsRefusedIsNot) {
  const auto settings = WorkerSettings(4);
  std::map<int64_t, std::optional<double>> seconds = {{4, 0.5}, {2, 0.3}, {1, 0.4}};
  const auto choose = [&] {
    return FastestOf(settings, [&](const WorkerSetting& s) { return seconds.at(s.workers); });
  };
  EXPECT_EQ(choose(), (WorkerSetting{2, 2}));
  seconds[2] = std::nullopt;  // other results: not taken, however fast
  EXPECT_EQ(choose(), (WorkerSetting{1, 4}));
  seconds[4] = 0.4;
  EXPECT_EQ(choose(), (WorkerSetting{4, 1}));  // a draw goes to the first
  seconds = {{4, std::nullopt}, {2, std::nullopt}, {1, std::nullopt}};
  EXPECT_EQ(choose(), (WorkerSetting{4, 1}));
}

TEST(WorkerPoolUnit, MeasuresEachWorkerAndRefusesWhatChangesABitOrThrows) {
  std::atomic<int64_t> ticks = 0;  // what all workers have spent, in hundredths
  int64_t other_bits = 0, broken = 0;
  const auto work = [&] {
    const int64_t threads = at::get_num_threads();
    ticks += threads == 1 ? 100 : threads == 2 ? 40 : 50;
    if (threads == broken) throw std::runtime_error("no memory");
    return std::vector<Tensor>{at::full({2}, threads == other_bits ? 1 + 1e-7 : 1.0)};
  };
  const auto choose = [&] {
    return MeasuredSetting(WorkerSettings(4), work,
                           [&] { return 0.01 * static_cast<double>(ticks); });
  };
  EXPECT_EQ(choose(), (WorkerSetting{2, 2}));
  other_bits = 2;
  EXPECT_EQ(choose(), (WorkerSetting{1, 4}));
  broken = 4;
  EXPECT_EQ(choose(), (WorkerSetting{4, 1}));
}

TEST(WorkerPoolUnit, EveryTaskRunsOnceWithItsThreadsAndThreadsComeBack) {
  const int before = at::get_num_threads();
  std::vector<std::atomic<int>> runs(100);
  std::atomic<int> wrong = 0;
  RunOnWorkers({3, 2}, runs.size(), [&](size_t i) {
    ++runs[i];
    if (at::get_num_threads() != 2) ++wrong;
  });
  for (const auto& count : runs) EXPECT_EQ(count, 1);
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(at::get_num_threads(), before);
}

TEST(WorkerPoolUnit, AnExceptionOfATaskArrives) {
  EXPECT_THROW(RunOnWorkers({2, 1}, 10,
                            [](size_t i) {
                              if (i == 7) throw std::runtime_error("seven");
                            }),
               std::runtime_error);
}

}  // namespace
}  // namespace espalier

#include "experiments/league/stopwatch.h"

#include <sys/resource.h>

#include <utility>

#include "experiments/run_folder.h"

namespace espalier {
namespace {

double CpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

}  // namespace

Stopwatch::Stopwatch(std::filesystem::path file)
    : file_(std::move(file)), cpu_start_(CpuSeconds()) {
  if (!std::filesystem::exists(file_)) return;
  const nlohmann::ordered_json known = ReadJson(file_);
  wall_ = known.value("wall_seconds", 0.0);
  cpu_ = known.value("cpu_seconds", 0.0);
}

nlohmann::ordered_json Stopwatch::Read() const {
  return {{"wall_seconds", wall_ + timer_.Seconds()},
          {"cpu_seconds", cpu_ + CpuSeconds() - cpu_start_}};
}

void Stopwatch::Keep() {
  if (timer_.Seconds() < kept_ + 1) return;
  std::filesystem::create_directories(file_.parent_path());
  WriteJson(file_, Read());
  kept_ = timer_.Seconds();
}

}  // namespace espalier

#include "env/train/precision.h"

#include <algorithm>
#include <array>
#include <ctime>
#include <limits>

#include "env/base/clock.h"

namespace espalier {

AutocastScope::AutocastScope(bool on, at::DeviceType device) : on_(on), device_(device) {
  if (!on_) return;
  was_enabled_ = at::autocast::is_autocast_enabled(device_);
  was_dtype_ = at::autocast::get_autocast_dtype(device_);
  was_cached_ = at::autocast::is_autocast_cache_enabled();
  at::autocast::set_autocast_enabled(device_, true);
  at::autocast::set_autocast_dtype(device_, at::kBFloat16);
  at::autocast::set_autocast_cache_enabled(true);
  at::autocast::increment_nesting();
}

AutocastScope::~AutocastScope() {
  if (!on_) return;
  at::autocast::decrement_nesting();
  at::autocast::clear_cache();  // even inside an outer scope: the weights change after the step
  at::autocast::set_autocast_cache_enabled(was_cached_);
  at::autocast::set_autocast_dtype(device_, was_dtype_);
  at::autocast::set_autocast_enabled(device_, was_enabled_);
}

namespace {

double SecondsNow(at::DeviceType device) {
  if (device == at::kCPU) return static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
  return SteadyClock()();
}

}  // namespace

bool MeasureBfloat16Gain(at::DeviceType device, const std::function<void(bool bfloat16)>& step) {
  constexpr int kRounds = 3;
  constexpr double kWorthwhile = 0.9;  // less gain than this does not pay for the lost digits
  std::array<double, 2> best{std::numeric_limits<double>::max(),
                             std::numeric_limits<double>::max()};
  for (int round = 0; round <= kRounds; ++round)
    for (const bool bfloat16 : {false, true}) {
      const double start = SecondsNow(device);
      step(bfloat16);
      const double seconds = SecondsNow(device) - start;
      double& least = best[bfloat16 ? 1 : 0];
      if (round > 0) least = std::min(least, seconds);  // round 0 warms up
    }
  return best[1] < kWorthwhile * best[0];
}

}  // namespace espalier

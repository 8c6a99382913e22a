#pragma once

#include <ATen/autocast_mode.h>

#include <functional>

namespace espalier {

/// Runs eligible operators in bfloat16 while it lives. One scope a step: weights cast inside are
/// cached until its end, so they must not change before.
///
/// Threads  the setting is thread-local.
class AutocastScope {
 public:
  AutocastScope(bool on, at::DeviceType device);
  ~AutocastScope();
  AutocastScope(const AutocastScope&) = delete;
  AutocastScope& operator=(const AutocastScope&) = delete;

 private:
  const bool on_;
  const at::DeviceType device_;
  bool was_enabled_ = false, was_cached_ = false;
  at::ScalarType was_dtype_ = at::kBFloat16;
};

/// True when `step(true)` (bfloat16) was measured at least a tenth faster than `step(false)`:
/// the best of three each, taken in turn, after one of each to warm up. On CPU the process's own
/// processor time counts, which other programs on a busy machine disturb far less than wall time.
bool MeasureBfloat16Gain(at::DeviceType device, const std::function<void(bool bfloat16)>& step);

}  // namespace espalier

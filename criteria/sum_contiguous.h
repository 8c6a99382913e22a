#pragma once

#include <cstdint>

namespace espalier {

inline constexpr int64_t kSumLanes = 8;

/// Sum of function(entry) over contiguous entries, in float64: independent partial sums, so that
/// additions need not wait for each other.
template <typename T, typename Function>
double SumContiguous(const T* values, int64_t count, Function function) {
  double lanes[kSumLanes] = {};
  int64_t i = 0;
  for (; i + kSumLanes <= count; i += kSumLanes)
    for (int64_t lane = 0; lane < kSumLanes; ++lane)
      lanes[lane] += function(static_cast<double>(values[i + lane]));
  double sum = 0;
  for (; i < count; ++i) sum += function(static_cast<double>(values[i]));
  for (const double lane : lanes) sum += lane;
  return sum;
}

}  // namespace espalier

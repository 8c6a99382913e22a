#pragma once

#include <chrono>
#include <functional>

namespace espalier {

/// Seconds since some moment; tests bring their own.
using Clock = std::function<double()>;

inline Clock SteadyClock() {
  return [] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
  };
}

}  // namespace espalier

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

/// Wall time since it was made.
class Timer {
 public:
  double Seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace espalier

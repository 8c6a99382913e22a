#pragma once

#include <nlohmann/json.hpp>

#include <filesystem>

#include "env/base/clock.h"

namespace espalier {

/// Wall and processor time of a task, kept in a file, so that a task which was killed and is gone
/// on with counts what it took before.
///
/// Errors   kIo; kData when the file is no such file.
class Stopwatch {
 public:
  explicit Stopwatch(std::filesystem::path file);  ///< starts now
  nlohmann::ordered_json Read() const;             ///< "wall_seconds", "cpu_seconds"
  void Keep();  ///< writes it down, at most once a second; a kill loses what is younger

 private:
  const std::filesystem::path file_;
  const Timer timer_;
  const double cpu_start_;
  double wall_ = 0, cpu_ = 0;  // of earlier calls
  double kept_ = 0;            // when, of this call
};

}  // namespace espalier

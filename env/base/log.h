#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "env/base/error.h"

namespace espalier {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

/// One line of talk, to stderr through the sink (spdlog by default). Libraries never print: they
/// log or report progress. A line names trial, layer and value.
void Log(LogLevel level, std::string_view line);
template <typename... Parts>
void LogInfo(const Parts&... parts) {
  Log(LogLevel::kInfo, Str(parts...));
}
template <typename... Parts>
void LogWarning(const Parts&... parts) {
  Log(LogLevel::kWarning, Str(parts...));
}
template <typename... Parts>
void LogDebug(const Parts&... parts) {
  Log(LogLevel::kDebug, Str(parts...));
}

void SetLogLevel(LogLevel minimum);
void SetLogFile(const std::string& path);  ///< additionally append to a file (the run folder's log)

/// Progress of a long job. On a terminal one status line is redrawn in place; elsewhere at most one
/// line a minute. `--quiet` silences both.
///
/// Threads  Update may be called from any thread.
class Progress {
 public:
  Progress(std::string task, int64_t total);  ///< total 0 = unknown
  ~Progress();                                ///< ends the status line
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  void Update(int64_t done, std::string_view detail = {});

 private:
  struct State;
  State* state_;
};
void SetQuiet(bool quiet);

}  // namespace espalier

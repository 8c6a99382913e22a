#include "env/base/log.h"

#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <memory>
#include <mutex>

namespace espalier {
namespace {

using Clock = std::chrono::steady_clock;

/// The logger and the one status line of the process share a lock, so that a log line never lands
/// in the middle of the status line.
struct Talk {
  std::mutex mutex;
  spdlog::logger logger{"espalier"};
  std::shared_ptr<spdlog::sinks::sink> terminal;
  std::shared_ptr<spdlog::sinks::sink> file;
  bool status_shown = false;
  bool quiet = false;
  const bool is_terminal = ::isatty(STDERR_FILENO) == 1;

  Talk() : terminal(std::make_shared<spdlog::sinks::stderr_color_sink_mt>()) {
    terminal->set_pattern("%^%v%$");
    logger.sinks().push_back(terminal);
    logger.set_level(spdlog::level::info);
    logger.flush_on(spdlog::level::info);
  }
  void ClearStatus() {
    if (status_shown) std::fputs("\r\x1b[K", stderr);
    status_shown = false;
  }
};

Talk& TheTalk() {
  static Talk* const talk = new Talk;  // never destroyed: other threads may talk until the end
  return *talk;
}

spdlog::level::level_enum Level(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarning:
      return spdlog::level::warn;
    case LogLevel::kError:
      return spdlog::level::err;
  }
  return spdlog::level::err;
}

const char* Prefix(LogLevel level) {
  if (level == LogLevel::kWarning) return "warning: ";
  return level == LogLevel::kError ? "error: " : "";
}

std::string Duration(double seconds) {
  const auto whole = static_cast<int64_t>(seconds + 0.5);
  if (whole < 60) return Str(whole, "s");
  if (whole < 3600) return Str(whole / 60, "m", whole % 60, "s");
  return Str(whole / 3600, "h", whole % 3600 / 60, "m");
}

}  // namespace

void Log(LogLevel level, std::string_view line) {
  Talk& talk = TheTalk();
  const std::lock_guard lock(talk.mutex);
  if (!talk.logger.should_log(Level(level))) return;
  talk.ClearStatus();
  talk.logger.log(Level(level), Str(Prefix(level), line));
}

void SetLogLevel(LogLevel minimum) {
  const std::lock_guard lock(TheTalk().mutex);
  TheTalk().logger.set_level(Level(minimum));
}

void SetLogFile(const std::string& path) {
  Talk& talk = TheTalk();
  const std::lock_guard lock(talk.mutex);
  try {
    auto file = std::make_shared<spdlog::sinks::basic_file_sink_mt>(path);
    file->set_pattern("%Y-%m-%d %H:%M:%S.%e %v");
    talk.file = file;
    talk.logger.sinks() = {talk.terminal, talk.file};
  } catch (const spdlog::spdlog_ex& problem) {
    throw Error(ErrorKind::kIo, Str("cannot write the log file '", path, "': ", problem.what()));
  }
}

void SetQuiet(bool quiet) {
  Talk& talk = TheTalk();
  const std::lock_guard lock(talk.mutex);
  talk.ClearStatus();
  talk.quiet = quiet;
  // The file keeps everything; only errors reach a quiet terminal.
  talk.terminal->set_level(quiet ? spdlog::level::err : spdlog::level::trace);
}

struct Progress::State {
  std::string task;
  int64_t total;
  Clock::time_point start = Clock::now();
  Clock::time_point next_line;
};

Progress::Progress(std::string task, int64_t total)
    : state_(new State{.task = std::move(task), .total = total, .next_line = Clock::now()}) {}

Progress::~Progress() {
  Talk& talk = TheTalk();
  {
    const std::lock_guard lock(talk.mutex);
    talk.ClearStatus();
  }
  delete state_;
}

void Progress::Update(int64_t done, std::string_view detail) {
  Talk& talk = TheTalk();
  const std::lock_guard lock(talk.mutex);
  const auto now = Clock::now();
  const bool complete = state_->total > 0 && done >= state_->total;
  if (talk.quiet || (now < state_->next_line && !(complete && talk.is_terminal))) return;
  // Redrawing ten times a second is smooth and free; a log file wants a line a minute.
  using std::chrono::milliseconds;
  state_->next_line = now + (talk.is_terminal ? milliseconds(100) : milliseconds(60000));

  const double seconds = std::chrono::duration<double>(now - state_->start).count();
  std::string line = Str(state_->task, " ", done);
  if (state_->total > 0) line += Str("/", state_->total);
  if (!detail.empty()) line += Str("  ", detail);
  line += Str("  ", Duration(seconds));
  if (done > 0 && state_->total > done)
    line += Str(", ", Duration(seconds / done * (state_->total - done)), " left");
  if (talk.is_terminal) {
    std::fprintf(stderr, "\r\x1b[K%s", line.c_str());
    std::fflush(stderr);
    talk.status_shown = true;
  } else {
    std::fprintf(stderr, "%s\n", line.c_str());
  }
}

}  // namespace espalier

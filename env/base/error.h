#pragma once

#include <exception>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace espalier {

/// What went wrong, from the user's side. The executable maps a kind to its exit code.
enum class ErrorKind {
  kUsage,        ///< command line; exit 2
  kConfig,       ///< a config file or --set; exit 2
  kModel,        ///< a network file or a network that cannot be handled; exit 3
  kData,         ///< a data set missing, short or corrupt; exit 3
  kIo,           ///< file system; exit 3
  kBudget,       ///< a bound that no candidate can meet; exit 4
  kTrials,       ///< too many trials failed; exit 5
  kResource,     ///< out of memory or disk; exit 6
  kDevice,       ///< a device that is asked for but absent or broken; exit 3
  kInterrupted,  ///< stopped on request, resumable; exit 75
  kInternal,     ///< a bug of ours; exit 1
};

/// Joins anything streamable into one string: Str("axis ", 3, " of ", name).
template <typename... Parts>
std::string Str(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return std::move(out).str();
}

/// The one exception type of the project: what, which value, where, what is allowed; the hint names
/// the nearest known name or the next command.
class Error : public std::exception {
 public:
  Error(ErrorKind kind, std::string message, std::string hint = {});
  const char* what() const noexcept override { return message_.c_str(); }
  ErrorKind kind() const { return kind_; }
  const std::string& message() const { return message_; }
  const std::string& hint() const { return hint_; }  ///< may be empty

 private:
  ErrorKind kind_;
  std::string message_;
  std::string hint_;
};

const char* ErrorKindName(ErrorKind kind);  ///< "usage", "config", ...
int ExitCode(ErrorKind kind);               ///< DESIGN: 1, 2, 3, 4, 5, 6 or 75

/// The known name closest to `name` by edit distance, or "" when none is near enough to suggest.
std::string NearestName(std::string_view name, const std::vector<std::string>& known);

/// " did you mean 'x'?" for a near name, else the list of all known names (cut after a dozen).
std::string SuggestName(std::string_view name, const std::vector<std::string>& known);

namespace internal {
[[noreturn]] void ThrowCheckFailed(const char* file, int line, const char* condition,
                                   const std::string& detail);
}  // namespace internal
}  // namespace espalier

/// Programmer errors only; always on; throws Error{kInternal}. User input never reaches a check.
#define ESPALIER_CHECK(condition, ...)                                                        \
  do {                                                                                        \
    if (!(condition)) [[unlikely]]                                                            \
      ::espalier::internal::ThrowCheckFailed(__FILE__, __LINE__, #condition,                  \
                                             ::espalier::Str("" __VA_OPT__(, ) __VA_ARGS__)); \
  } while (false)

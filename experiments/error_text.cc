#include "experiments/error_text.h"

#include <c10/util/Exception.h>

#include <filesystem>
#include <new>
#include <system_error>

#include "env/base/error.h"

namespace espalier {
namespace {

Failure Text(ErrorKind kind, const std::string& message, const std::string& hint) {
  std::string text = (kind == ErrorKind::kInterrupted ? "stopped: " : "error: ") + message;
  while (!text.empty() && text.back() == '\n') text.pop_back();
  text += '\n';
  if (!hint.empty()) text += "  help: " + hint + '\n';
  return {text, ExitCode(kind)};
}

constexpr const char* kBugHint = "this is a bug of Espalier; please report the line above";

}  // namespace

Failure DescribeFailure(const std::exception_ptr& failure) {
  try {
    std::rethrow_exception(failure);
  } catch (const Error& error) {
    const bool bug = error.kind() == ErrorKind::kInternal && error.hint().empty();
    return Text(error.kind(), error.message(), bug ? kBugHint : error.hint());
  } catch (const c10::OutOfMemoryError& error) {
    return Text(ErrorKind::kResource,
                Str("out of memory on the device: ", error.what_without_backtrace()),
                "use a smaller batch_size");
  } catch (const c10::Error& error) {
    // LibTorch reports a failed host allocation as a plain error.
    const std::string what = error.what_without_backtrace();
    if (what.find("DefaultCPUAllocator: can't allocate memory") != std::string::npos)
      return Text(ErrorKind::kResource, "out of memory: " + what, "use a smaller batch_size");
    return Text(ErrorKind::kInternal, "LibTorch: " + what, kBugHint);
  } catch (const std::bad_alloc&) {
    return Text(ErrorKind::kResource, "out of memory", "use a smaller batch_size");
  } catch (const std::filesystem::filesystem_error& error) {
    return Text(
        error.code() == std::errc::no_space_on_device ? ErrorKind::kResource : ErrorKind::kIo,
        error.what(), "");
  } catch (const std::exception& error) {
    return Text(ErrorKind::kInternal, error.what(), kBugHint);
  }
}

}  // namespace espalier

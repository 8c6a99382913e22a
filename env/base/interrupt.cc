#include "env/base/interrupt.h"

#include <csignal>

#include <atomic>

#include "env/base/error.h"

namespace espalier {
namespace {

std::atomic<bool> stop_requested = false;
static_assert(std::atomic<bool>::is_always_lock_free, "set from a signal handler");

void OnSignal(int signal) {
  // An impatient second Ctrl-C dies at once; a repeated SIGTERM (schedulers send several) does not.
  if (stop_requested.exchange(true) && signal == SIGINT) {
    std::signal(SIGINT, SIG_DFL);
    std::raise(SIGINT);
  }
}

}  // namespace

void CatchInterrupts() {
  struct sigaction action {};
  action.sa_handler = OnSignal;
  action.sa_flags = SA_RESTART;  // reads and writes in flight go on; loops ask between steps
  sigemptyset(&action.sa_mask);
  for (const int signal : {SIGINT, SIGTERM})
    ESPALIER_CHECK(sigaction(signal, &action, nullptr) == 0, "signal ", signal);
}

bool InterruptRequested() { return stop_requested.load(std::memory_order_relaxed); }
void RequestInterrupt() { stop_requested = true; }
void ClearInterrupt() { stop_requested = false; }

void ThrowIfInterrupted(const char* what) {
  if (InterruptRequested())
    throw Error(ErrorKind::kInterrupted, Str("stopped on request during ", what),
                "the same command again goes on from the last checkpoint");
}

}  // namespace espalier

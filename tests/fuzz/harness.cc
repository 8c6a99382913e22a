#include "tests/fuzz/harness.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fstream>
#include <iostream>
#include <thread>
#include <typeinfo>

#include "tests/fuzz/meter.h"
#include "tests/support/temp_folder.h"

namespace espalier::fuzz {
namespace {

constexpr uint64_t kMutants = 2000;
constexpr double kMostWallSeconds = 60;  // for one that waits and computes nothing
constexpr int kMostFailures = 5;         // shown

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text && *text ? std::strtoull(text, nullptr, 10) : otherwise;
}

// For the crash handler, which may not allocate.
char running[128] = "no mutant";
void SayWhichMutant() {
  [[maybe_unused]] auto ignored = write(STDERR_FILENO, running, std::strlen(running));
  ignored = write(STDERR_FILENO, "\n", 1);
}

void OnCrash(int signal_number) {
  SayWhichMutant();
  signal(signal_number, SIG_DFL);
  raise(signal_number);
}

#ifdef __SANITIZE_ADDRESS__
extern "C" void __sanitizer_set_death_callback(void (*callback)());
constexpr int kSignals[] = {SIGABRT};  // the sanitizer has the others and calls back
#else
constexpr int kSignals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
#endif

void CatchCrashes() {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_set_death_callback(SayWhichMutant);
#endif
  static char stack[64 << 10];  // an overflowed stack cannot run its own handler
  stack_t other{};
  other.ss_sp = stack;
  other.ss_size = sizeof stack;
  sigaltstack(&other, nullptr);
  struct sigaction action {};
  action.sa_handler = OnCrash;
  action.sa_flags = SA_ONSTACK;
  for (const int number : kSignals) sigaction(number, &action, nullptr);
}

double Seconds(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

/// Ends the process when one mutant takes too long.
class Watchdog {
 public:
  explicit Watchdog(double seconds) {
    pthread_getcpuclockid(pthread_self(), &clock_);
    Next();
    thread_ = std::thread([this, seconds] {
      while (!done_) {
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
        if (Seconds(clock_) - start_ < seconds &&
            Seconds(CLOCK_MONOTONIC) - wall_start_ < kMostWallSeconds)
          continue;
        std::fputs("hangs: ", stderr);
        SayWhichMutant();
        _exit(1);
      }
    });
  }
  ~Watchdog() {
    done_ = true;
    thread_.join();
  }
  void Next() {
    start_ = Seconds(clock_);
    wall_start_ = Seconds(CLOCK_MONOTONIC);
  }

 private:
  clockid_t clock_{};
  std::atomic<double> start_ = 0, wall_start_ = 0;
  std::atomic<bool> done_ = false;
  std::thread thread_;
};

/// What is wrong with an error of the reader, or "".
std::string ProblemWith(const Error& error, const Target& target) {
  const std::string text = error.message() + " | " + error.hint();
  const auto complain = [&](const std::string& what) { return Str(what, ": ", text); };
  if (error.kind() != target.kind && error.kind() != ErrorKind::kIo)
    return complain(Str("an error of kind ", ErrorKindName(error.kind())));
  if (text.find(target.file) == std::string::npos) return complain("no file in the error");
  const auto in_text = [&](const std::string& place) {
    return text.find(place) != std::string::npos;
  };
  if (!target.places.empty() && std::none_of(target.places.begin(), target.places.end(), in_text))
    return complain("no entry or offset in the error");
  return "";
}

/// Reads one mutant; returns what is wrong, or "".
std::string Try(const Target& target, const std::filesystem::path& path, uint64_t size,
                bool& refused) {
  std::string problem;
  Meter::Start();
  try {
    target.read(path);
  } catch (const Error& error) {
    refused = true;
    problem = ProblemWith(error, target);
  } catch (const std::exception& error) {
    problem = Str("threw ", typeid(error).name(), ": ", error.what());
  } catch (...) {
    problem = "threw something unknown";
  }
  const Meter::Usage usage = Meter::Stop();
  const uint64_t allowed = 4 * size + target.allowance;
  if (problem.empty() && std::max(usage.peak, usage.largest) > allowed)
    problem = Str("allocated ", usage.peak, " bytes (", usage.largest, " at once) for a file of ",
                  size, ", ", allowed, " are allowed");
  return problem;
}

}  // namespace

void WriteBytes(const std::filesystem::path& path, const std::string& bytes) {
  std::filesystem::remove(path);
  std::ofstream(path, std::ios::binary) << bytes;
}

void FuzzReader(const Target& target) {
  CatchCrashes();
  const TempFolder folder;
  const std::filesystem::path path = folder / target.file;
  for (const std::string& good : target.good) {
    WriteBytes(path, good);
    ASSERT_NO_THROW(target.read(path)) << target.name << ": the good file";
  }
  const uint64_t only = FromEnvironment("ESPALIER_FUZZ_SEED", UINT64_MAX);
  const uint64_t first = only == UINT64_MAX ? 0 : only;
  const uint64_t count = only == UINT64_MAX ? FromEnvironment("ESPALIER_FUZZ", kMutants) : 1;
  uint64_t refused = 0;
  int failures = 0;
  {
    Watchdog watchdog(target.seconds);
    for (uint64_t seed = first; seed < first + count; ++seed) {
      std::snprintf(running, sizeof running, "mutant of %s: ESPALIER_FUZZ_SEED=%llu",
                    target.name.c_str(), static_cast<unsigned long long>(seed));
      Rng rng(seed, 0, target.name);
      const std::string bytes = target.mutate(rng);
      WriteBytes(path, bytes);
      watchdog.Next();
      bool was_refused = false;
      const std::string problem = Try(target, path, bytes.size(), was_refused);
      refused += was_refused;
      if (problem.empty()) continue;
      ADD_FAILURE() << running << "\n" << problem.substr(0, 2000);
      if (++failures == kMostFailures) break;
    }
  }
  std::snprintf(running, sizeof running, "no mutant");
  if (failures > 0 || only != UINT64_MAX) return;
  EXPECT_GT(refused, count / 10) << "the mutators hardly damage anything";
  EXPECT_LT(refused, count) << "no mutant reached the code behind the checks";
  std::cout << target.name << ": " << count << " mutants, " << refused << " refused\n";
}

void TouchAll(const Tensor& tensor) {
  const auto* base = static_cast<const unsigned char*>(tensor.const_data_ptr());
  const auto width = static_cast<int64_t>(tensor.element_size());
  [[maybe_unused]] volatile unsigned sum = 0;
  for (int64_t i = 0; i < tensor.numel(); ++i) {
    int64_t rest = i, element = 0;
    for (int64_t axis = tensor.dim() - 1; axis >= 0; --axis) {
      element += rest % tensor.size(axis) * tensor.stride(axis);
      rest /= tensor.size(axis);
    }
    sum = sum + base[element * width] + base[element * width + width - 1];
  }
}

}  // namespace espalier::fuzz

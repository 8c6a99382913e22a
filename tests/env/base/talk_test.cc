// Interrupts, the logger and progress: what the process says and how it is stopped.
#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <thread>

#include "env/base/error.h"
#include "env/base/files.h"
#include "env/base/interrupt.h"
#include "env/base/log.h"

namespace espalier {
namespace {

TEST(InterruptUnit, SignalSetsAFlagThatStopsTheNextStep) {
  CatchInterrupts();
  ClearInterrupt();
  EXPECT_NO_THROW(ThrowIfInterrupted("search"));
  for (const int signal : {SIGTERM, SIGINT}) {
    ASSERT_EQ(std::raise(signal), 0);
    EXPECT_TRUE(InterruptRequested());
    try {
      ThrowIfInterrupted("search");
      FAIL();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kInterrupted);
      EXPECT_NE(error.message().find("search"), std::string::npos);
    }
    ClearInterrupt();
    EXPECT_FALSE(InterruptRequested());
  }
  RequestInterrupt();
  EXPECT_TRUE(InterruptRequested());
  ClearInterrupt();
}

TEST(InterruptUnit, SecondCtrlCKillsButASecondTermDoesNot) {
  testing::GTEST_FLAG(death_test_style) = "threadsafe";
  const auto twice = [](int signal) {
    CatchInterrupts();
    std::raise(signal);
    std::raise(signal);
    std::exit(7);
  };
  EXPECT_EXIT(twice(SIGINT), testing::KilledBySignal(SIGINT), "");
  EXPECT_EXIT(twice(SIGTERM), testing::ExitedWithCode(7), "");
}

TEST(LogUnit, LinesGoToStderrFromTheChosenLevelOn) {
  testing::internal::CaptureStderr();
  LogInfo("trial ", 3, " {not a format}");
  LogDebug("hidden");
  LogWarning("careful");
  SetLogLevel(LogLevel::kDebug);
  LogDebug("shown");
  SetLogLevel(LogLevel::kInfo);
  EXPECT_EQ(testing::internal::GetCapturedStderr(),
            "trial 3 {not a format}\nwarning: careful\nshown\n");
}

TEST(LogUnit, QuietLeavesOnlyErrorsOnStderrAndEverythingInTheFile) {
  const auto path = std::filesystem::temp_directory_path() / Str("espalier_log_", ::getpid());
  std::filesystem::remove(path);
  SetLogFile(path.string());
  SetQuiet(true);
  testing::internal::CaptureStderr();
  LogInfo("layer1 kept 3");
  Log(LogLevel::kError, "disk");
  { Progress("search", 2).Update(1); }
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "error: disk\n");
  SetQuiet(false);
  const std::string text = ReadFile(path);
  EXPECT_NE(text.find("layer1 kept 3\n"), std::string::npos) << text;
  EXPECT_NE(text.find("error: disk\n"), std::string::npos) << text;
  std::filesystem::remove(path);
  EXPECT_THROW(SetLogFile("/dev/null/absent/log"), Error);
}

TEST(ProgressUnit, WithoutATerminalOneLineAMinuteFromManyThreads) {
  if (::isatty(STDERR_FILENO)) GTEST_SKIP() << "stderr is a terminal";
  testing::internal::CaptureStderr();
  {
    Progress progress("train", 100);
    progress.Update(10, "loss 2.30");
    std::vector<std::thread> threads;
    for (int thread = 0; thread < 4; ++thread)
      threads.emplace_back([&] {
        for (int i = 11; i < 50; ++i) progress.Update(i);
      });
    for (std::thread& thread : threads) thread.join();
  }
  // 10 of 100 done within the first half second: "0s", and 9 times 0s left.
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "train 10/100  loss 2.30  0s, 0s left\n");
}

}  // namespace
}  // namespace espalier

// Killed or interrupted at any point, the same line ends in the same result, bit for bit.

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "env/base/error.h"
#include "env/base/files.h"
#include "env/graph/io.h"
#include "tests/e2e/cli_testing.h"

namespace espalier {
namespace {

namespace fs = std::filesystem;

bool MetricsSay(const fs::path& run, const std::string& text) {
  std::ifstream in(run / "metrics.jsonl");
  for (std::string line; std::getline(in, line);)
    if (line.find(text) != std::string::npos) return true;
  return false;
}

std::vector<std::string> Line(const fs::path& folder) {
  return {"run", Tiny().config.string(), "--out", folder.string(), "--json", "--quiet"};
}

/// Hashes of everything delivered that carries numbers, and the plan.
std::map<std::string, std::string> Hashes(const fs::path& folder) {
  std::map<std::string, std::string> hashes;
  for (const char* name : {"best/weights.safetensors", "best/plan.json", "best/certificate.json"})
    hashes[name] = Sha256OfFile(folder / name);
  return hashes;
}

class ResumeE2e : public testing::Test {
 protected:
  static std::map<std::string, std::string> Uninterrupted() {
    static const auto hashes = [] {
      const auto folder = Tiny().folder / "whole";
      const auto run = RunEspalier(Line(folder));
      EXPECT_EQ(run.exit_code, 0) << run.err;
      return Hashes(folder);
    }();
    return hashes;
  }
  /// Runs until `ready`, sends `signal`, then the same line to the end.
  static void StopAndContinue(const std::string& name,
                              const std::function<bool(const fs::path&)>& ready, int signal,
                              int exit_code) {
    const auto folder = Tiny().folder / name;
    Espalier first(Line(folder));
    ASSERT_TRUE(first.SignalWhen([&] { return ready(folder); }, signal)) << first.Wait().err;
    const auto stopped = first.Wait();
    EXPECT_EQ(stopped.exit_code, exit_code) << stopped.err;
    EXPECT_FALSE(fs::exists(folder / "best/certificate.json"))
        << "stopped too late to prove anything";
    const auto second = RunEspalier(Line(folder));
    ASSERT_EQ(second.exit_code, 0) << second.err;
    EXPECT_EQ(Hashes(folder), Uninterrupted());
  }
};

TEST_F(ResumeE2e, KilledDuringTheSearch) {
  StopAndContinue(
      "killed_search", [](const fs::path& run) { return MetricsSay(run, "\"step\":8,"); }, SIGKILL,
      128 + SIGKILL);
}

TEST_F(ResumeE2e, KilledDuringFineTuning) {
  StopAndContinue(
      "killed_finetune",
      [](const fs::path& run) { return fs::exists(run / "finetune/checkpoint.safetensors"); },
      SIGKILL, 128 + SIGKILL);
}

TEST_F(ResumeE2e, InterruptedDuringTheSearch) {
  StopAndContinue(
      "stopped_search", [](const fs::path& run) { return MetricsSay(run, "\"step\":5,"); }, SIGINT,
      75);
}

TEST_F(ResumeE2e, TerminatedDuringFineTuning) {
  StopAndContinue(
      "stopped_finetune", [](const fs::path& run) { return fs::exists(run / "stages/cut.json"); },
      SIGTERM, 75);
}

TEST_F(ResumeE2e, TerminatedDuringSparsityTraining) {
  const auto line = [](const fs::path& folder) {
    auto words = Line(folder);
    for (const char* value : {"sparsify.epochs=3", "sparsify.regulariser=growing(delta=0.1)",
                              "sparsify.batch_size=20", "finetune.epochs=0"})
      words.insert(words.end(), {"--set", value});
    return words;
  };
  const auto whole = Tiny().folder / "sparse_whole", folder = Tiny().folder / "sparse_stopped";
  ASSERT_EQ(RunEspalier(line(whole)).exit_code, 0);
  Espalier first(line(folder));
  ASSERT_TRUE(first.SignalWhen(
      [&] { return fs::exists(folder / "sparsify/checkpoint.safetensors"); }, SIGTERM));
  EXPECT_EQ(first.Wait().exit_code, 75);
  EXPECT_FALSE(fs::exists(folder / "stages/sparsify.json")) << "stopped too late to prove anything";
  ASSERT_EQ(RunEspalier(line(folder)).exit_code, 0);
  EXPECT_EQ(ReadFile(folder / "best/plan.json"), ReadFile(whole / "best/plan.json"));
  for (const char* file : {"sparsify/weights.safetensors", "best/weights.safetensors"})
    EXPECT_EQ(Sha256OfFile(folder / file), Sha256OfFile(whole / file)) << file;
}

TEST_F(ResumeE2e, InterruptedTrainingContinuesToTheSameWeights) {
  const auto folder = Tiny().folder / "train_again";
  const std::vector<std::string> line = {"train", (Tiny().folder / "base.toml").string(), "--out",
                                         folder.string(), "--quiet"};
  Espalier first(line);
  ASSERT_TRUE(first.SignalWhen([&] { return MetricsSay(folder, "\"step\":1,"); }, SIGINT));
  const auto stopped = first.Wait();
  EXPECT_EQ(stopped.exit_code, 75) << stopped.err;
  EXPECT_NE(stopped.err.find("stopped"), std::string::npos);
  ASSERT_EQ(RunEspalier(line).exit_code, 0);
  const auto again = ReadSafetensors(folder / "weights.safetensors").tensors;
  const auto whole = ReadSafetensors(Tiny().weights).tensors;
  ASSERT_EQ(again.size(), whole.size());
  for (size_t i = 0; i < whole.size(); ++i)
    EXPECT_TRUE(at::equal(again[i].second, whole[i].second)) << whole[i].first;
}

TEST_F(ResumeE2e, DamagedCheckpointIsAnErrorNotAGuess) {
  const auto folder = Tiny().folder / "damaged";
  Espalier first(Line(folder));
  ASSERT_TRUE(first.SignalWhen(
      [&] { return fs::exists(folder / "finetune/checkpoint.safetensors"); }, SIGKILL));
  first.Wait();
  const auto file = folder / "finetune/checkpoint.safetensors";
  fs::resize_file(file, fs::file_size(file) / 2);
  const auto second = RunEspalier(Line(folder));
  EXPECT_EQ(second.exit_code, 3) << second.err;
  EXPECT_NE(second.err.find("checkpoint.safetensors"), std::string::npos) << second.err;
}

}  // namespace
}  // namespace espalier

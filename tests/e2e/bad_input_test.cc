// Wrong input ends in a clear error, the right exit code, and nothing half-written.

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "env/base/error.h"
#include "env/base/files.h"
#include "tests/e2e/cli_testing.h"
#include "tests/support/temp_folder.h"

namespace espalier {
namespace {

namespace fs = std::filesystem;

/// Runs a line that must fail: exit code, and every text in what it says. Says nothing on stdout.
void ExpectFailure(const std::vector<std::string>& line, int exit_code,
                   const std::vector<std::string>& texts) {
  const auto outcome = RunEspalier(line);
  EXPECT_EQ(outcome.exit_code, exit_code) << outcome.err;
  EXPECT_EQ(outcome.out, "");
  EXPECT_NE(outcome.err.find("error: "), std::string::npos) << outcome.err;
  for (const auto& text : texts)
    EXPECT_NE(outcome.err.find(text), std::string::npos) << outcome.err;
}

/// The tiny config with overrides must fail before a folder is made.
void ExpectRunFails(const std::vector<std::string>& overrides, int exit_code,
                    const std::vector<std::string>& texts) {
  const TempFolder temp;
  std::vector<std::string> line = {"run", Tiny().config.string(), "--out", (temp / "out").string()};
  for (const auto& override : overrides) line = line + std::vector<std::string>{"--set", override};
  ExpectFailure(line, exit_code, texts);
  EXPECT_FALSE(fs::exists(temp / "out")) << "half-written";
}

TEST(BadInputE2e, CommandLine) {
  ExpectFailure({"inspcet", "resnet20"}, 2, {"'inspcet'", "inspect"});
  ExpectFailure({"inspect"}, 2, {"MODEL is missing"});
  ExpectFailure({"inspect", "resnet20", "--jsn"}, 2, {"'--jsn'", "did you mean '--json'"});
  ExpectFailure({"inspect", "resnet21"}, 3, {"resnet21", "resnet20"});
  ExpectFailure({"list", "strategies", "autobto"}, 2, {"autobto", "autobot"});
}

TEST(BadInputE2e, UnknownKeysWrongTypesAndRangesAllAtOnce) {
  const TempFolder temp;
  WriteFileAtomic(temp / "c.toml",
                  "[model]\nname = \"resnet20\"\n[strategy]\nname = \"autobot\"\nbatchs = 3\n"
                  "lr = \"fast\"\n[finetune]\nepochs = -1\n[budgte]\nmacs = 0.5\n");
  ExpectFailure({"run", (temp / "c.toml").string()}, 2,
                {"strategy.batchs", "'batches'", "c.toml:5", "strategy.lr", "c.toml:6",
                 "finetune.epochs", "c.toml:8", "budgte", "budget"});
}

TEST(BadInputE2e, UnknownStrategyAndMissingTables) {
  ExpectRunFails({"strategy.name=\"autobto\""}, 2, {"autobto", "autobot"});
  ExpectRunFails({"controls.strategies=[\"unifrom\"]"}, 2, {"unifrom", "uniform"});
  ExpectRunFails({"run.device=\"gpu\""}, 2, {"gpu"});
}

TEST(BadInputE2e, MissingFiles) {
  ExpectFailure({"run", "absent.toml"}, 3, {"absent.toml"});
  ExpectRunFails({"model.weights=\"absent.safetensors\""}, 3, {"absent.safetensors"});
  ExpectRunFails({"data.root=\"/nowhere\""}, 3, {"/nowhere", "scripts/data cifar10"});
  ExpectFailure({"inspect", "absent.pt2"}, 3, {"absent.pt2"});
  ExpectFailure({"verify", Tiny().folder.string()}, 3, {"certificate.json"});
}

TEST(BadInputE2e, TruncatedWeights) {
  const TempFolder temp;
  fs::copy_file(Tiny().weights, temp / "w.safetensors");
  fs::resize_file(temp / "w.safetensors", fs::file_size(temp / "w.safetensors") - 1000);
  ExpectRunFails({Str("model.weights=\"", (temp / "w.safetensors").string(), "\"")}, 3,
                 {"w.safetensors"});
  fs::resize_file(temp / "w.safetensors", 5);
  ExpectFailure({"inspect", Str("resnet20:", (temp / "w.safetensors").string())}, 3,
                {"w.safetensors"});
}

TEST(BadInputE2e, WeightsOfAnotherNetwork) {
  ExpectRunFails({"model.name=\"resnet32\""}, 3, {"weights of another network", "layer1.3.conv1"});
  ExpectFailure(
      {"eval", Str("vgg16_bn_cifar:", Tiny().weights.string()), "--root", Tiny().data.string()}, 3,
      {"weights of another network"});
}

TEST(BadInputE2e, TruncatedPng) {
  const TempFolder temp;
  fs::copy(Tiny().data, temp / "data", fs::copy_options::recursive);
  const auto file = temp / "data/cifar10/data_batch_3.png";
  fs::resize_file(file, fs::file_size(file) / 2);
  ExpectRunFails({Str("data.root=\"", (temp / "data").string(), "\"")}, 3,
                 {"data_batch_3.png", "scripts/data cifar10"});
}

TEST(BadInputE2e, UnreachableBudgetSaysWhichAndTheLeast) {
  ExpectRunFails({"budget.macs=0.001"}, 4, {"macs"});
  ExpectRunFails({"budget.params=\"1k\""}, 4, {"params"});
  const TempFolder temp;
  const auto outcome =
      RunEspalier({"prune", "resnet20", "--macs", "100", "--out", (temp / "p").string()});
  EXPECT_EQ(outcome.exit_code, 4) << outcome.err;
  EXPECT_FALSE(fs::exists(temp / "p"));
}

TEST(BadInputE2e, PruneChecksItsOptions) {
  const TempFolder temp;
  ExpectFailure({"prune", "resnet20", "--out", (temp / "x").string()}, 2, {"no budget"});
  ExpectFailure({"prune", "resnet20", "--macs", "0.5"}, 2, {"--out DIR is missing"});
  ExpectFailure({"prune", "resnet20", "--macs", "much", "--dry-run"}, 2, {"--macs"});
  ExpectFailure({"prune", "resnet20", "--macs", "0.5", "--criterion", "l1", "--dry-run"}, 2,
                {"l1_norm"});
  ExpectFailure({"prune", "resnet20", "--macs", "0.5", "--criterion", "taylor", "--dry-run"}, 2,
                {"needs data", "ranking"});
  ExpectFailure({"prune", "resnet20", "--macs", "0.5", "--scope", "globl", "--dry-run"}, 2,
                {"global"});
  ExpectFailure({"prune", "resnet20", "--macs", "0.5", "--convention", "flops", "--dry-run"}, 2,
                {"flops", "canonical"});
}

TEST(BadInputE2e, FilesThatAreNoArchives) {
  const TempFolder temp;
  WriteFileAtomic(temp / "m.pt2", "not a zip");
  ExpectFailure({"inspect", (temp / "m.pt2").string()}, 3, {"m.pt2"});
}

}  // namespace
}  // namespace espalier

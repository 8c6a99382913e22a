// Networks and data of the user's own: unlabelled tensors from search to report.

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "env/base/error.h"
#include "env/base/files.h"
#include "env/eval/evaluator.h"
#include "env/graph/builder.h"
#include "env/graph/io.h"
#include "tests/e2e/cli_testing.h"
#include "tests/support/temp_folder.h"

namespace espalier {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;

/// [batch, 3, 8, 8] -> [batch, 5]: a residual block with batch norm, whose statistics are those of
/// `samples`, and outputs that differ clearly.
void WriteClassifier(const fs::path& file, const Tensor& samples) {
  Builder b("classifier", 7);
  ValueId x = b.Input("image", {2, 3, 8, 8});
  x = b.Relu(b.BatchNorm2d("bn", b.Conv2d("stem", x, 3, 12, {.padding = 1}), 12));
  const ValueId y = b.Relu(b.BatchNorm2d("bn1", b.Conv2d("conv1", x, 12, 16, {.padding = 1}), 16));
  x = b.Relu(b.Add(x, b.Conv2d("conv2", y, 16, 12, {.padding = 1, .bias = true})));
  Network network = b.Finish({b.Linear("fc", b.Flatten(x), 12 * 64, 5)});
  const Dataset data{.inputs = {samples}, .targets = {}};
  Loader loader(data, {.batch_size = 16});
  RecalibrateBatchNorm(network, loader, 4);
  network.store.Set("fc.weight", network.store.Get("fc.weight") * 20);
  WritePt2(file, network);
}

/// A vector and words, [batch, 6] and [batch, 4] int64 -> [batch, 1]: nothing to classify.
void WriteRegressor(const fs::path& file) {
  Builder b("regressor", 7);
  const ValueId vector = b.Input("vector", {2, 6});
  const ValueId words = b.Input("words", {2, 4}, at::kLong);
  const ValueId table = b.Parameter("table", at::randn({10, 6}));
  const ValueId embedded = b.Call("aten::embedding", "", {{"weight", table}, {"indices", words}});
  ValueId x = b.Cat({vector, b.Flatten(embedded)});
  x = b.Relu(b.Linear("fc1", x, 30, 24));
  WritePt2(file, b.Finish({b.Linear("fc2", x, 24, 1)}));
}

void WriteInputs(const fs::path& file, const std::vector<std::pair<std::string, Tensor>>& tensors) {
  fs::create_directories(file.parent_path());
  WriteSafetensors(file, {.tensors = tensors, .metadata = {}});
}

/// A config for model.pt2 and inputs/ in the folder, small enough for seconds.
fs::path WriteConfig(const fs::path& folder, const std::string& more) {
  const fs::path file = folder / "run.toml";
  WriteFileAtomic(file, Str("[model]\nfile = \"model.pt2\"\n[data]\nname = \"tensors\"\nroot = \"",
                            (folder / "inputs").string(), "\"\n[budget]\nmacs = 0.6\n", more));
  return file;
}

TEST(TaskCliE2e, UnlabelledInputsAreEnoughForTheWholeWay) {
  const TempFolder folder;
  at::manual_seed(1);
  const Tensor images = at::randn({64, 3, 8, 8});
  WriteClassifier(folder / "model.pt2", images);
  WriteInputs(folder / "inputs/a.safetensors", {{"inputs.image", images}});
  const fs::path config =
      WriteConfig(folder.path(),
                  "[strategy]\nname = \"autobot\"\nbatches = 30\nbatch_size = 16\n"
                  "[refine]\nbatch_size = 16\ncompensate_batches = 2\nrecalibrate_batches = 2\n"
                  "tune_batches = 4\n"
                  "[finetune]\nepochs = 2\nbatch_size = 16\nlr = 0.01\n"
                  "[controls]\nstrategies = [\"uniform\", \"random\"]\n");
  const fs::path run = folder / "run";
  const auto made = RunEspalier({"run", config.string(), "--out", run.string(), "--json"});
  ASSERT_EQ(made.exit_code, 0) << made.err;
  const auto result = made.Json();
  EXPECT_EQ(result["base"]["metric"], "agreement");
  EXPECT_EQ(result["base"]["value"], 1) << "the uncut network agrees with itself";
  EXPECT_FALSE(result["base"].contains("accuracy"));
  EXPECT_LE(result["final"]["macs"].get<double>(), 0.6 * result["base"]["macs"].get<double>());
  ASSERT_EQ(result["controls"].size(), 2u);
  for (const auto& control : result["controls"]) EXPECT_EQ(control["metric"], "agreement");
  const auto test = nlohmann::json::parse(ReadFile(run / "stages/test.json"));
  EXPECT_EQ(test["base"]["samples"], 6);  // a tenth of 64
  EXPECT_NEAR(test["base"]["loss"].get<double>(), 0, 1e-9);
  EXPECT_LT(test["refined"]["loss"], test["cut"]["loss"]) << "recovery brings the outputs nearer";
  EXPECT_LT(test["final"]["loss"], test["cut"]["loss"]);
  const std::string html = ReadFile(run / "report.html");
  EXPECT_THAT(html, AllOf(HasSubstr("<h2>Agreement</h2>"), HasSubstr("fine-tuning: agreement"),
                          HasSubstr("network before the cut"), HasSubstr("task.metric")));

  const auto eval = RunEspalier({"eval", (run / "best/model.pt2").string(), "--data", "tensors",
                                 "--root", (folder / "inputs").string(), "--uncut",
                                 (folder / "model.pt2").string(), "--json"});
  ASSERT_EQ(eval.exit_code, 0) << eval.err;
  EXPECT_EQ(eval.Json()["value"], result["final"]["value"]);
  const auto alone = RunEspalier({"eval", (run / "best/model.pt2").string(), "--data", "tensors",
                                  "--root", (folder / "inputs").string()});
  EXPECT_EQ(alone.exit_code, 2) << alone.err;
  EXPECT_THAT(alone.err, HasSubstr("--uncut MODEL"));
}

TEST(TaskCliE2e, ThePageOnOwnModelsRunsFromExportToReport) {
  const TempFolder folder;
  const std::string failed = RunPython({"tests/e2e/run_page.py", "docs/bring_your_model.md",
                                        (folder / "").string(), "export.py", "write_inputs.py"});
  if (failed.find("skip: ") != std::string::npos) GTEST_SKIP() << failed;
  ASSERT_EQ(failed, "");
  const auto made =
      RunEspalier({"run", (folder / "run.toml").string(), "--out", (folder / "run").string(),
                   "--json", "--set", "model.file=" + (folder / "model.pt2").string(), "--set",
                   "data.root=" + (folder / "inputs").string(), "--set", "data.limit=256", "--set",
                   "refine.compensate_batches=2", "--set", "strategy.batches=20", "--set",
                   "finetune.epochs=1"});
  ASSERT_EQ(made.exit_code, 0) << made.err;
  EXPECT_EQ(made.Json()["final"]["metric"], "agreement");
  EXPECT_LE(made.Json()["final"]["macs"].get<double>(),
            0.5 * made.Json()["base"]["macs"].get<double>());
}

TEST(TaskCliE2e, AnArchiveIsMadeSparseFirstAndItsCertificateStartsFromThere) {
  const TempFolder folder;
  at::manual_seed(1);
  const Tensor images = at::randn({64, 3, 8, 8});
  WriteClassifier(folder / "model.pt2", images);
  WriteInputs(folder / "inputs/a.safetensors", {{"inputs.image", images}});
  const fs::path config = WriteConfig(
      folder.path(),
      "[sparsify]\nepochs = 3\nbatch_size = 16\nregulariser = \"group_sparsity(lambda=0.3)\"\n"
      "[strategy]\nname = \"ranking\"\ncriterion = \"l2_norm\"\n"
      "[finetune]\nepochs = 1\nbatch_size = 16\nlr = 0.01\nloss = \"kl + 0.1 square_head\"\n");
  const fs::path run = folder / "run";
  const auto made = RunEspalier({"run", config.string(), "--out", run.string(), "--json"});
  ASSERT_EQ(made.exit_code, 0) << made.err;
  const auto result = made.Json();
  EXPECT_EQ(result["base"]["value"], 1) << "the network as it was given";
  EXPECT_EQ(result["sparse"]["macs"], result["base"]["macs"]);
  EXPECT_TRUE(result["certificate"]["passed"]);
  const auto verified = RunEspalier({"verify", (run / "best").string()});
  EXPECT_EQ(verified.exit_code, 0) << verified.out << verified.err;
  EXPECT_THAT(verified.out, HasSubstr((run / "sparsify/model.pt2").string()));
  EXPECT_THAT(ReadFile(run / "report.html"),
              AllOf(HasSubstr("sparsity training: loss"), HasSubstr("norms of all units, sorted"),
                    HasSubstr("sparse, uncut")));
  EXPECT_EQ(RunEspalier({"run", config.string(), "--out", (folder / "other").string(), "--set",
                         "sparsify.regulariser=group_sparsty"})
                .exit_code,
            2);
  EXPECT_FALSE(fs::exists(folder / "other"));
}

TEST(TaskCliE2e, SeveralInputsAndValuesInsteadOfClasses) {
  const TempFolder folder;
  at::manual_seed(1);
  WriteRegressor(folder / "model.pt2");
  WriteInputs(folder / "inputs/a.safetensors",
              {{"inputs.0", at::randn({512, 6})}, {"inputs.words", at::randint(10, {512, 4})}});
  for (const std::string strategy : {"random", "uniform", "autobot"}) {
    SCOPED_TRACE(strategy);
    const fs::path config = WriteConfig(
        folder.path(),
        Str("[strategy]\nname = \"", strategy, "\"\n",
            strategy == "autobot" ? "batches = 10\nbatch_size = 16\n" : "",
            "[finetune]\nepochs = 6\nbatch_size = 16\noptimizer = \"adamw\"\nlr = 0.003\n"));
    const auto made =
        RunEspalier({"run", config.string(), "--out", (folder / strategy).string(), "--json"});
    ASSERT_EQ(made.exit_code, 0) << made.err;
    const auto result = made.Json();
    EXPECT_EQ(result["base"]["metric"], "output_error");
    EXPECT_EQ(result["base"]["value"], 0);
    EXPECT_LT(result["final"]["value"], result["cut"]["value"]);
    EXPECT_THAT(ReadFile(folder / strategy / "report.html"), HasSubstr("lower is better"));
  }
}

TEST(TaskCliE2e, WhatDoesNotFitIsSaidBeforeAFolderIsMade) {
  const TempFolder folder;
  at::manual_seed(1);
  const Tensor images = at::randn({64, 3, 8, 8});
  WriteClassifier(folder / "model.pt2", images);
  WriteInputs(folder / "inputs/a.safetensors", {{"inputs.image", images}});
  const auto refused = [&](const std::vector<std::string>& set) {
    const fs::path config = WriteConfig(folder.path(), "[strategy]\nname = \"uniform\"\n");
    std::vector<std::string> line = {"run", config.string(), "--out", (folder / "run").string()};
    for (const std::string& one : set) line.insert(line.end(), {"--set", one});
    const auto outcome = RunEspalier(line);
    EXPECT_NE(outcome.exit_code, 0);
    EXPECT_FALSE(fs::exists(folder / "run"));
    return outcome.err;
  };
  EXPECT_THAT(refused({"task.metric='accuracy'"}), HasSubstr("needs targets"));
  EXPECT_THAT(refused({"task.metric='acuracy'"}), HasSubstr("'accuracy'"));
  EXPECT_THAT(refused({"task.loss='kll'"}), HasSubstr("kl"));
  EXPECT_THAT(refused({"data.test=0"}), HasSubstr("data.test"));
  WriteInputs(folder / "inputs/a.safetensors", {{"inputs.imag", at::randn({64, 3, 8, 8})}});
  EXPECT_THAT(refused({}), HasSubstr("did you mean 'inputs.image'"));
}

}  // namespace
}  // namespace espalier

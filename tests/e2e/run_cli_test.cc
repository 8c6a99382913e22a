// From config to report with the real executable, and what PyTorch makes of the result.

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "env/base/error.h"
#include "env/base/files.h"
#include "env/graph/executor.h"
#include "env/graph/io.h"
#include "experiments/run_store.h"
#include "tests/e2e/cli_testing.h"
#include "tests/support/temp_folder.h"

namespace espalier {
namespace {

namespace fs = std::filesystem;

/// One finished run for all tests of this file.
class RunCliE2e : public testing::Test {
 protected:
  struct Made {
    fs::path folder;
    CliOutcome outcome;
  };
  static const Made& Run() {
    static const Made made = [] {
      Made run{Tiny().folder / "run", {}};
      run.outcome =
          RunEspalier({"run", Tiny().config.string(), "--out", run.folder.string(), "--json"});
      return run;
    }();
    return made;
  }
  void SetUp() override { ASSERT_EQ(Run().outcome.exit_code, 0) << Run().outcome.err; }
};

TEST_F(RunCliE2e, PrintsBaseCutFinalAndCertificate) {
  const auto result = Run().outcome.Json();
  ASSERT_TRUE(result.is_object()) << Run().outcome.out;
  for (const char* part : {"base", "cut", "final"}) {
    EXPECT_GE(result[part]["accuracy"], 0) << part;
    EXPECT_LE(result[part]["accuracy"], 1) << part;
  }
  // ResNet-20 as AutoBot counts it; the budget is 0.6 of that and is met from below.
  EXPECT_LE(result["cut"]["macs"].get<double>(), 0.6 * result["base"]["macs"].get<double>());
  EXPECT_GE(result["cut"]["macs"].get<double>(), 0.5 * result["base"]["macs"].get<double>());
  EXPECT_LT(result["cut"]["params"], result["base"]["params"]);
  EXPECT_EQ(result["final"]["macs"], result["cut"]["macs"]);
  EXPECT_TRUE(result["certificate"]["passed"].get<bool>());
  EXPECT_LT(result["certificate"]["max_rel_error"], 1e-5);
  ASSERT_EQ(result["controls"].size(), 1u);
  EXPECT_EQ(result["controls"][0]["strategy"], "uniform");
  EXPECT_GT(result["base"]["accuracy"], 0.2) << "the made-up images are learnable";
}

TEST_F(RunCliE2e, RanksByACriterionOnDataAndCompensates) {
  const TempFolder temp;
  const auto outcome =
      RunEspalier({"run", Tiny().config.string(), "--set", "strategy.name=\"ranking\"", "--out",
                   (temp / "run").string(), "--json"});
  EXPECT_EQ(outcome.exit_code, 2) << "keys of another strategy are errors";
  const fs::path config = Tiny().folder / "ranking.toml";
  std::string text = ReadFile(Tiny().config);
  const size_t start = text.find("[strategy]"), end = text.find("[finetune]");
  text.replace(start, end - start,
               "[strategy]\nname = \"ranking\"\ncriterion = \"taylor(mode=vector)\"\n"
               "scope = \"isomorphic\"\nbatches = 2\nbatch_size = 16\ncompensate = true\n");
  WriteFileAtomic(config, text);
  const auto ranked = RunEspalier({"run", config.string(), "--set", "finetune.epochs=0", "--out",
                                   (temp / "ranked").string(), "--json"});
  ASSERT_EQ(ranked.exit_code, 0) << ranked.err;
  const auto result = ranked.Json();
  EXPECT_TRUE(result["certificate"]["passed"].get<bool>());
  EXPECT_LE(result["cut"]["macs"].get<double>(), 0.6 * result["base"]["macs"].get<double>());
}

TEST_F(RunCliE2e, LeavesEverythingTheFolderPromises) {
  for (const char* name : {"resolved.toml", "manifest.json", "run.db", "metrics.jsonl",
                           "report.html", "best/model.pt2", "best/weights.safetensors",
                           "best/state_dict.pt", "best/plan.json", "best/certificate.json"})
    EXPECT_TRUE(fs::exists(Run().folder / name)) << name;
  EXPECT_FALSE(fs::is_empty(Run().folder / "events"));
  for (const auto& entry : fs::recursive_directory_iterator(Run().folder))
    EXPECT_EQ(entry.path().string().find(".tmp"), std::string::npos) << entry.path();
  const RunStore store(Run().folder / "run.db");
  const auto curves = store.Curves("search");
  ASSERT_FALSE(curves.empty());
  EXPECT_EQ(curves[0].points.size(), 12u);
  EXPECT_EQ(store.Curves("finetune")[0].points.size(), 2u);
  EXPECT_EQ(store.Trials().size(), 2u);
  const auto manifest = nlohmann::json::parse(ReadFile(Run().folder / "manifest.json"));
  EXPECT_EQ(manifest["inputs"]["weights_sha256"], Sha256OfFile(Tiny().weights));
}

TEST_F(RunCliE2e, FrontLeavesAPlanForEveryBudgetThatCanBeApplied) {
  const fs::path config = Tiny().folder / "front.toml";
  std::string text = ReadFile(Tiny().config);
  const size_t begin = text.find("[strategy]"), end = text.find("[finetune]");
  text.replace(
      begin, end - begin,
      "[strategy]\nname = \"front\"\nbudgets = [0.8, 0.4]\nevaluations = 15\nsamples = 40\n");
  text.erase(text.find("[finetune]"), text.find("[run]") - text.find("[finetune]"));
  WriteFileAtomic(config, text);
  const fs::path folder = Tiny().folder / "front";
  const CliOutcome run =
      RunEspalier({"run", config.string(), "--out", folder.string(), "--json", "--quiet"});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const double full = run.Json()["base"]["macs"];
  for (const double budget : {0.8, 0.4}) {
    const fs::path out = Tiny().folder / Str("front-cut-", budget);
    const CliOutcome cut = RunEspalier(
        {"apply", (folder / Str("search/front-", budget, ".plan.json")).string(),
         "resnet20:" + Tiny().weights.string(), "--out", out.string(), "--json", "--quiet"});
    ASSERT_EQ(cut.exit_code, 0) << cut.err;
    EXPECT_LE(cut.Json()["cost"]["autobot"]["macs"][1].get<double>(), budget * full);
    EXPECT_TRUE(cut.Json()["certificate"]["passed"].get<bool>());
  }
}

TEST_F(RunCliE2e, ReportNeedsNoNetwork) {
  const std::string html = ReadFile(Run().folder / "report.html");
  for (const char* remote : {"http://", "https://", "src=", "@import", "url("})
    EXPECT_EQ(html.find(remote), std::string::npos) << remote;
  for (const char* part : {"resnet20", "Certificate", "control: uniform", "layer3.2.conv2",
                           "What could not be removed", "strategy.batches"})
    EXPECT_NE(html.find(part), std::string::npos) << part;
  EXPECT_LT(html.size(), 400'000u);
}

TEST_F(RunCliE2e, TheSameLineAgainDoesNothingAndSaysTheSame) {
  const auto before = fs::last_write_time(Run().folder / "best/model.pt2");
  const auto again =
      RunEspalier({"run", Tiny().config.string(), "--out", Run().folder.string(), "--json"});
  EXPECT_EQ(again.exit_code, 0) << again.err;
  EXPECT_EQ(again.Json(), Run().outcome.Json());
  EXPECT_EQ(fs::last_write_time(Run().folder / "best/model.pt2"), before);
}

TEST_F(RunCliE2e, AnotherConfigIsRefused) {
  const auto other = RunEspalier({"run", Tiny().config.string(), "--out", Run().folder.string(),
                                  "--set", "strategy.batches=13"});
  EXPECT_EQ(other.exit_code, 2);
  EXPECT_NE(other.err.find("strategy.batches: the folder has 12, this line says 13"),
            std::string::npos)
      << other.err;
}

TEST_F(RunCliE2e, VerifyHoldsAndNoticesATouchedWeight) {
  const auto good = RunEspalier({"verify", Run().folder.string(), "--json"});
  EXPECT_EQ(good.exit_code, 0) << good.err;
  EXPECT_TRUE(good.Json()["passed"].get<bool>());

  const TempFolder temp;
  fs::copy(Run().folder / "best", temp / "best", fs::copy_options::recursive);
  auto weights = ReadSafetensors(temp / "best/weights.safetensors");
  for (auto& [name, tensor] : weights.tensors)
    if (name == "conv1.weight") tensor.view(-1)[0] += 1e-3;
  WriteSafetensors(temp / "best/weights.safetensors", weights);
  const auto bad = RunEspalier({"verify", (temp / "best").string()});
  EXPECT_EQ(bad.exit_code, 3) << bad.out;
  EXPECT_NE(bad.err.find("hash of weights.safetensors"), std::string::npos) << bad.err;
}

TEST_F(RunCliE2e, EvalReadsTheDeliveryAndAgreesWithTheRun) {
  const auto eval = RunEspalier({"eval", (Run().folder / "best/model.pt2").string(), "--root",
                                 Tiny().data.string(), "--validation", "100", "--json"});
  ASSERT_EQ(eval.exit_code, 0) << eval.err;
  EXPECT_EQ(eval.Json()["accuracy"], Run().outcome.Json()["final"]["accuracy"]);
  EXPECT_EQ(eval.Json()["images"], 100);
}

TEST_F(RunCliE2e, PyTorchOpensTheFilesAndGetsOurLogits) {
  const char* python = std::getenv("ESPALIER_PYTHON");
  if (!python || !*python) GTEST_SKIP() << "ESPALIER_PYTHON is not set";
  const TempFolder temp;
  const Network network = ReadPt2(Run().folder / "best/model.pt2");
  const at::NoGradGuard no_grad;
  TensorFile expected;
  for (const int64_t batch : {1, 5}) {
    const Tensor x = at::randn({batch, 3, 32, 32}, at::kFloat);
    expected.tensors.emplace_back(Str("x", batch), x);
    expected.tensors.emplace_back(Str("y", batch), Forward(network, x));
  }
  WriteSafetensors(temp / "logits.safetensors", expected);
  EXPECT_EQ(RunPython({"tests/e2e/check_delivery.py", (Run().folder / "best").string(),
                       (temp / "logits.safetensors").string()}),
            "");
  expected.tensors.back().second += 1;  // the check itself must notice a difference
  WriteSafetensors(temp / "wrong.safetensors", expected);
  EXPECT_NE(RunPython({"tests/e2e/check_delivery.py", (Run().folder / "best").string(),
                       (temp / "wrong.safetensors").string()}),
            "");
}

}  // namespace
}  // namespace espalier

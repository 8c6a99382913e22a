// A plan on other weights, with the real executable and with scripts/apply_plan.py.

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "env/base/files.h"
#include "env/graph/io.h"
#include "tests/e2e/cli_testing.h"
#include "tests/support/temp_folder.h"

namespace espalier {
namespace {

namespace fs = std::filesystem;

TEST(ApplyCliE2e, ReplaysAPlanOnTheWeightsItWasMadeForAndOnOthers) {
  const TempFolder temp;
  const std::string trained = "resnet20:" + Tiny().weights.string();
  const auto pruned = RunEspalier({"prune", trained, "--decouple-residuals", "--exclude",
                                   "layer2.*", "--macs", "0.7", "--out", (temp / "cut").string()});
  ASSERT_EQ(pruned.exit_code, 0) << pruned.err;
  // What was decoupled and excluded comes from the plan.
  const auto again =
      RunEspalier({"apply", (temp / "cut").string(), trained, "--out", (temp / "again").string()});
  ASSERT_EQ(again.exit_code, 0) << again.err;
  EXPECT_EQ(ReadFile(temp / "again/plan.json"), ReadFile(temp / "cut/plan.json"));
  EXPECT_EQ(ReadFile(temp / "again/weights.safetensors"),
            ReadFile(temp / "cut/weights.safetensors"));

  const auto other = RunEspalier({"apply", (temp / "cut/plan.json").string(), "resnet20", "--seed",
                                  "5", "--out", (temp / "other").string(), "--json"});
  ASSERT_EQ(other.exit_code, 0) << other.err;
  EXPECT_NE(other.err.find("made for other weights"), std::string::npos) << other.err;
  EXPECT_TRUE(other.Json()["certificate"]["passed"].get<bool>());
  const auto verified = RunEspalier({"verify", (temp / "other").string()});
  EXPECT_EQ(verified.exit_code, 0) << verified.err;
}

TEST(ApplyCliE2e, PlansOfAnotherNetworkAreRefused) {
  const TempFolder temp;
  const auto out = (temp / "out").string();
  const auto pruned =
      RunEspalier({"prune", "resnet20", "--macs", "0.5", "--out", (temp / "cut").string()});
  ASSERT_EQ(pruned.exit_code, 0) << pruned.err;
  const auto refused = [&](const std::vector<std::string>& words, int exit_code,
                           const std::string& text) {
    const auto outcome = RunEspalier(std::vector<std::string>{"apply"} + words);
    EXPECT_EQ(outcome.exit_code, exit_code) << outcome.err;
    EXPECT_NE(outcome.err.find(text), std::string::npos) << outcome.err;
    EXPECT_FALSE(fs::exists(out));
  };
  const auto plan = (temp / "cut/plan.json").string();
  refused({plan, "resnet32", "--out", out}, 3, "says nothing about group");
  refused({plan, "vgg16_bn_cifar", "--out", out}, 3, "does not have");
  refused({plan, "resnet20"}, 2, "--out DIR is missing");
  refused({(temp / "absent.json").string(), "resnet20", "--out", out}, 3, "absent.json");
  auto json = nlohmann::json::parse(ReadFile(plan));
  auto& kept = json["kept"]["layer1.0.conv1.weight"]["0"];
  for (int64_t index = 0, found = 0; !found; ++index)  // another set of the same size
    if (std::find(kept.begin(), kept.end(), index) == kept.end()) kept[0] = index, found = 1;
  std::sort(kept.begin(), kept.end());
  WriteFileAtomic(temp / "other.json", json.dump());
  refused({(temp / "other.json").string(), "resnet20", "--out", out}, 3, "'layer1.0.conv1.weight'");
}

TEST(ApplyPlanScriptE2e, EagerModelsCutInPythonEqualTheCutNetworkAndTrain) {
  if (RunPython({"-c", "import torch"}) != "")
    GTEST_SKIP() << "no python with torch (ESPALIER_PYTHON)";
  const TempFolder temp;
  EXPECT_EQ(RunPython({"tests/e2e/check_apply_plan.py", std::getenv("ESPALIER_BINARY"),
                       temp.path().string()}),
            "");
}

TEST(ApplyPlanScriptE2e, IsShort) {
  std::istringstream lines(ReadFile("scripts/apply_plan.py"));
  int count = 0;
  for (std::string line; std::getline(lines, line);) ++count;
  EXPECT_LT(count, 60);
}

}  // namespace
}  // namespace espalier

// Budgets told before anything runs, and latency from the command line. What is measured here is
// only looked at for its form: no test depends on how fast a machine is.

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "env/base/error.h"
#include "env/base/files.h"
#include "tests/e2e/cli_testing.h"
#include "tests/support/temp_folder.h"

namespace espalier {
namespace {

const std::vector<std::string> kQuick = {"latency.networks=2", "latency.held_out=2",
                                         "latency.repeats=3"};

TEST(InspectBudgetE2e, TellsWhatCanBeReachedAndExitsWithFourWhenABoundCannot) {
  const auto met = RunEspalier({"inspect", "resnet20", "--decouple-residuals", "--macs", "0.4",
                                "--params", "100k", "--keep", "layer3.*: 0.25..0.5", "--json"});
  ASSERT_EQ(met.exit_code, 0) << met.err;
  const auto reach = met.Json()["reach"];
  ASSERT_EQ(reach.size(), 3u);
  EXPECT_EQ(reach[0]["kind"], "macs");
  EXPECT_EQ(reach[0]["full"], met.Json()["cost"]["canonical"]["macs"]);
  EXPECT_GT(reach[0]["least"], met.Json()["cost"]["canonical"]["least_macs"]);
  EXPECT_LT(reach[0]["most"], reach[0]["full"]);
  EXPECT_EQ(reach[0]["met"], true);
  EXPECT_EQ(reach[1]["limit"], 100000);
  EXPECT_FALSE(reach[2].contains("asked"));

  const auto unmet = RunEspalier(
      {"inspect", "resnet20", "--macs", "0.001", "--params", "0.5", "--min-keep", "0.5"});
  EXPECT_EQ(unmet.exit_code, 4);
  EXPECT_NE(unmet.out.find("CANNOT be met"), std::string::npos) << unmet.out;
  EXPECT_NE(unmet.out.find("what can be reached"), std::string::npos);

  for (const auto& [option, value, what] :
       std::vector<std::array<std::string, 3>>{{"--macs", "5ms", "is a time"},
                                               {"--latency-ms", "fast", "is not an amount"},
                                               {"--keep", "layer3.*", "no range of keep ratios"},
                                               {"--keep", "layer9.*: 0.5..", "matches no group"},
                                               {"--max-keep", "0", "must be in (0, 1]"},
                                               {"--precision", "fp8", "fp32 or bf16"},
                                               {"--batch", "0", "must be in"}}) {
    const auto refused = RunEspalier({"inspect", "resnet20", option, value});
    EXPECT_EQ(refused.exit_code, 2) << option << " " << value;
    EXPECT_NE(refused.err.find(what), std::string::npos) << refused.err;
  }
}

TEST(InspectBudgetE2e, ReadsTheConfigOfARun) {
  const std::string config = Tiny().config.string();
  const auto met = RunEspalier({"inspect", config, "--json"});
  ASSERT_EQ(met.exit_code, 0) << met.err;
  EXPECT_EQ(met.Json()["convention"], "autobot");
  EXPECT_EQ(met.Json()["reach"][0]["met"], true);
  const auto unmet = RunEspalier({"inspect", config, "--set", "budget.macs=0.0001", "--json"});
  EXPECT_EQ(unmet.exit_code, 4);
  EXPECT_EQ(unmet.Json()["reach"][0]["met"], false);
  const auto both = RunEspalier({"inspect", config, "--macs", "0.5"});
  EXPECT_EQ(both.exit_code, 2);
  EXPECT_NE(both.err.find("--macs does not go with a config"), std::string::npos) << both.err;
  // The run itself says the same before it makes a folder.
  const TempFolder temp;
  const auto run =
      RunEspalier({"run", config, "--set", "budget.macs=0.0001", "--out", (temp / "run").string()});
  EXPECT_EQ(run.exit_code, 4);
  EXPECT_NE(run.err.find("budget.macs"), std::string::npos);
  EXPECT_NE(run.err.find("the least reachable is"), std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(temp / "run"));
}

TEST(LatencyCliE2e, ARunUnderALatencyBoundReportsItAndIsContinuedByTheTimesItBeganWith) {
  const TempFolder temp;
  const std::string folder = (temp / "run").string();
  std::vector<std::string> line = {"run", Tiny().config.string(), "--out", folder, "--json"};
  for (const auto& setting : kQuick) line = line + std::vector<std::string>{"--set", setting};
  line = line + std::vector<std::string>{"--set", "budget.latency_ms=0.9", "--set",
                                         Str("latency.cache=\"", (temp / "cache").string(), "\"")};
  auto outcome = RunEspalier(line);
  // On a busy machine cut networks may seem slower than the uncut one: no bound can be met then.
  for (int again = 0; outcome.exit_code == 4 && again < 5; ++again) {
    EXPECT_NE(outcome.err.find("budget.latency_ms"), std::string::npos) << outcome.err;
    std::filesystem::remove_all(temp / "run");
    std::filesystem::remove_all(temp / "cache");
    outcome = RunEspalier(line);
  }
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  const auto latency = outcome.Json()["latency"];
  for (const char* key : {"measured", "predicted"}) {
    ASSERT_EQ(latency[key].size(), 2u) << latency;
    EXPECT_GT(latency[key][0].get<double>(), 0);
    EXPECT_GT(latency[key][1].get<double>(), 0);
  }
  // The bound is on what is predicted.
  EXPECT_LE(latency["predicted"][1].get<double>(),
            0.9 * latency["predicted"][0].get<double>() * (1 + 1e-12));
  EXPECT_EQ(latency["held_out"], 2);
  EXPECT_EQ(latency["batch"], 1);
  EXPECT_NE(ReadFile(temp / "run" / "report.html").find("<h3>Latency</h3>"), std::string::npos);
  ASSERT_TRUE(std::filesystem::exists(temp / "run" / "latency.json"));

  // Without the user's cache and with the search undone, the run's own times give the same cut.
  std::filesystem::remove_all(temp / "cache");
  const auto selection = ReadFile(temp / "run" / "stages" / "search.json");
  std::filesystem::remove_all(temp / "run" / "search");
  for (const char* stage : {"search", "cut", "verify", "test", "report"})
    std::filesystem::remove(temp / "run" / "stages" / Str(stage, ".json"));
  const auto again = RunEspalier(line);
  ASSERT_EQ(again.exit_code, 0) << again.err;
  EXPECT_EQ(again.Json()["latency"]["predicted"], latency["predicted"]);
  EXPECT_EQ(nlohmann::json::parse(ReadFile(temp / "run" / "stages" / "search.json"))["selection"],
            nlohmann::json::parse(selection)["selection"]);
}

TEST(LatencyCliE2e, AForeignOrDamagedCacheIsMeasuredAnew) {
  const TempFolder temp;
  const auto inspect = [&] {
    return RunEspalier(
        {"inspect", "resnet20", "--latency", "--latency-cache", temp.path().string(), "--json"});
  };
  const auto first = inspect();
  ASSERT_EQ(first.exit_code, 0) << first.err;
  const auto found = first.Json()["latency"];
  EXPECT_EQ(found["device"]["batch"], 1);
  EXPECT_EQ(found["checks"].size(), found["held_out"]);
  EXPECT_GT(found["measured"], 0);
  EXPECT_TRUE(found["left_out"].empty()) << found["left_out"];
  const auto second = inspect();
  EXPECT_EQ(second.Json()["latency"]["measured"], 0);
  EXPECT_EQ(second.Json()["latency"]["checks"], found["checks"]);
  for (const auto& entry : std::filesystem::directory_iterator(temp.path()))
    WriteFileAtomic(entry.path(), "{\"format\": \"espalier-latency\", \"ms\": [");
  const auto damaged = inspect();
  EXPECT_EQ(damaged.exit_code, 0);
  EXPECT_NE(damaged.err.find("is not used"), std::string::npos) << damaged.err;
  EXPECT_EQ(damaged.Json()["latency"]["measured"], found["measured"]);
}

}  // namespace
}  // namespace espalier

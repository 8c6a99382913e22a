// A league from config to report with the real executable, interrupted and continued.

#include <gtest/gtest.h>
#include <signal.h>

#include <nlohmann/json.hpp>
#include <set>

#include "env/base/error.h"
#include "env/base/files.h"
#include "tests/e2e/cli_testing.h"

namespace espalier {
namespace {

namespace fs = std::filesystem;

fs::path LeagueConfigFile(const std::string& name, const std::string& extra = "") {
  const fs::path file = Tiny().folder / (name + ".toml");
  WriteFileAtomic(
      file,
      Str("[model]\nname = \"resnet20\"\nweights = \"base/weights.safetensors\"\n[data]\nname = "
          "\"cifar10\"\nroot = \"",
          Tiny().data.string(), "\"\nvalidation = 100\n", extra,
          "[space]\ndecouple_residuals = true\n[league]\nmacs = [0.6]\nseeds = [1, 2]\n"
          "evaluations = 6\nsamples = 50\nstrategies = [\"uniform\", \"random_search(batch=3)\", "
          "\"ranking(criterion=l1_norm, scope=global)\", \"evolution(race_first=20, "
          "batch=3)\"]\n"));
  return file;
}

std::vector<std::string> Line(const fs::path& config, const fs::path& out) {
  return {"league", config.string(), "--out", out.string(), "--json", "--quiet"};
}

TEST(LeagueE2e, PlaysEveryoneAndSaysWhatExceedsChance) {
  const fs::path folder = Tiny().folder / "league";
  const CliOutcome played = RunEspalier(Line(LeagueConfigFile("league"), folder));
  ASSERT_EQ(played.exit_code, 0) << played.err;
  const auto league = played.Json();
  ASSERT_EQ(league["budgets"].size(), 1U);
  std::set<std::string> names;
  const double limit = league["budgets"][0]["limit"];
  double previous = 1;
  for (const auto& row : league["budgets"][0]["rows"]) {
    names.insert(row["strategy"].get<std::string>());
    EXPECT_FALSE(row.contains("failed")) << row.dump();
    EXPECT_EQ(row["values"].size(), 2U);
    EXPECT_LE(row["macs"].get<double>(), limit);
    EXPECT_LE(row["mean"].get<double>(), previous);  // best first
    previous = row["mean"];
    if (row["strategy"] != "uniform") {
      const std::string verdict = row["against_uniform"]["verdict"];
      EXPECT_TRUE(verdict == "tie" || verdict == "better" || verdict == "worse") << verdict;
    }
  }
  EXPECT_EQ(names.size(), 4U);
  const std::string html = ReadFile(folder / "report.html");
  for (const std::string& name : names) EXPECT_NE(html.find(name), std::string::npos) << name;
  for (const char* remote : {"http://", "https://", "src=", "@import", "url("})
    EXPECT_EQ(html.find(remote), std::string::npos) << remote;
}

TEST(LeagueE2e, KilledAndContinuedItEndsInTheSameTable) {
  const fs::path config = LeagueConfigFile("league_killed");
  const auto table = [&](const fs::path& folder) {
    const CliOutcome played = RunEspalier(Line(config, folder));
    EXPECT_EQ(played.exit_code, 0) << played.err;
    auto league = played.Json();
    for (auto& row : league["budgets"][0]["rows"])
      for (const char* time : {"wall_seconds", "cpu_seconds"}) row.erase(time);
    return league;
  };
  const fs::path whole = Tiny().folder / "league-whole", killed = Tiny().folder / "league-killed";
  const auto expected = table(whole);
  Espalier first(Line(config, killed));
  ASSERT_TRUE(first.SignalWhen(
      [&] { return fs::exists(killed / "stages/uniform-macs0.6-seed2.json"); }, SIGKILL));
  EXPECT_EQ(first.Wait().exit_code, 128 + SIGKILL);
  EXPECT_FALSE(fs::exists(killed / "stages/evolution-race_first-20-batch-3-macs0.6-seed2.json"))
      << "killed too late to prove anything";
  EXPECT_EQ(table(killed), expected);
}

TEST(LeagueE2e, AFolderTakesFurtherPlayersAndSeedsAndPlaysOnlyWhatIsMissing) {
  const fs::path config = LeagueConfigFile("league_grows"), folder = Tiny().folder / "league-grows";
  const auto play = [&](const std::string& strategies, const std::string& seeds) {
    return RunEspalier(Line(config, folder) +
                       std::vector<std::string>{"--set", "league.strategies=" + strategies, "--set",
                                                "league.seeds=" + seeds});
  };
  const CliOutcome first = play("[\"uniform\"]", "[1]");
  ASSERT_EQ(first.exit_code, 0) << first.err;
  const fs::path stage = folder / "stages/uniform-macs0.6-seed1.json";
  const auto written = fs::last_write_time(stage);
  const CliOutcome second =
      play("[\"uniform\", \"ranking(criterion=l1_norm, scope=global)\"]", "[1, 2]");
  ASSERT_EQ(second.exit_code, 0) << second.err;
  EXPECT_EQ(fs::last_write_time(stage), written);
  const auto budget = second.Json()["budgets"][0];
  EXPECT_EQ(budget["seeds"].size(), 2U);
  EXPECT_EQ(budget["rows"].size(), 2U);
  // What decides a result still has to agree, and a name stands for one entry only.
  const CliOutcome other =
      RunEspalier(Line(config, folder) + std::vector<std::string>{"--set", "league.samples=60"});
  EXPECT_EQ(other.exit_code, 2);
  EXPECT_NE(other.err.find("league.samples: the folder has 50"), std::string::npos) << other.err;
  const CliOutcome spaced = play("[\"ranking(criterion = l1_norm, scope = global)\"]", "[1]");
  EXPECT_EQ(spaced.exit_code, 2);
  EXPECT_NE(spaced.err.find("was played by 'ranking(criterion=l1_norm, scope=global)'"),
            std::string::npos)
      << spaced.err;
}

TEST(LeagueE2e, WeightsThatSawTheValidationSamplesAreJudgedOnTheOtherHalfOfTheTest) {
  const fs::path config = LeagueConfigFile("league_seen", "seen = \"train\"\n");
  const CliOutcome played =
      RunEspalier(Line(config, Tiny().folder / "league-seen") +
                  std::vector<std::string>{"--set", "league.strategies=[\"uniform\"]", "--set",
                                           "league.seeds=[1]"});
  ASSERT_EQ(played.exit_code, 0) << played.err;
  EXPECT_EQ(played.Json()["reported_on"], "50 other test samples");
  EXPECT_NE(played.Json()["chosen_on"].get<std::string>().find("50 test samples"),
            std::string::npos);
}

TEST(LeagueE2e, UnknownStrategiesOptionsAndRulesAreConfigErrors) {
  for (const auto& [set, says] :
       {std::pair("league.strategies=[\"evolutoin\"]", "evolution"),
        std::pair("league.strategies=[\"evolution(populatoin=3)\"]", "population"),
        std::pair("league.strategies=[\"uniform\",\"uniform\"]", "twice"),
        std::pair("league.strategies=[]", "nobody"), std::pair("league.macs=[1.5]", "(0, 1]"),
        std::pair("league.seeds=[]", "empty")}) {
    SCOPED_TRACE(set);
    const CliOutcome outcome =
        RunEspalier(Line(LeagueConfigFile("league_bad"), Tiny().folder / "league-bad") +
                    std::vector<std::string>{"--set", set});
    EXPECT_EQ(outcome.exit_code, 2) << outcome.err;
    EXPECT_NE(outcome.err.find(says), std::string::npos) << outcome.err;
    EXPECT_FALSE(fs::exists(Tiny().folder / "league-bad"));
  }
}

}  // namespace
}  // namespace espalier

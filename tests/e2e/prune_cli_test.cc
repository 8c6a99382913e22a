// One-shot pruning, inspection and the data sheets with the real executable.

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "env/base/error.h"
#include "env/base/files.h"
#include "tests/e2e/cli_testing.h"
#include "tests/support/temp_folder.h"

namespace espalier {
namespace {

namespace fs = std::filesystem;

TEST(PruneCliE2e, PrunesVerifiesAndCanBePrunedAgain) {
  const TempFolder temp;
  const auto pruned =
      RunEspalier({"prune", "resnet20", "--macs", "0.5", "--out", (temp / "a").string(), "--json"});
  ASSERT_EQ(pruned.exit_code, 0) << pruned.err;
  const auto json = pruned.Json();
  for (const char* part : {"read", "trace", "groups", "plan", "surgery", "certificate", "write"})
    EXPECT_GE(json["seconds"][part], 0) << part;
  const auto macs = json["cost"]["canonical"]["macs"];
  EXPECT_LE(macs[1].get<double>(), 0.5 * macs[0].get<double>());
  EXPECT_GE(macs[1].get<double>(), 0.4 * macs[0].get<double>());
  EXPECT_TRUE(json["certificate"]["passed"].get<bool>());
  for (const char* name :
       {"model.pt2", "weights.safetensors", "state_dict.pt", "plan.json", "certificate.json"})
    EXPECT_TRUE(fs::exists(temp / "a" / name)) << name;
  const auto verified = RunEspalier({"verify", (temp / "a").string(), "--json"});
  EXPECT_EQ(verified.exit_code, 0) << verified.err;
  EXPECT_TRUE(verified.Json()["passed"].get<bool>());

  const auto again = RunEspalier({"prune", (temp / "a/model.pt2").string(), "--params", "0.5",
                                  "--out", (temp / "b").string(), "--json"});
  ASSERT_EQ(again.exit_code, 0) << again.err;
  EXPECT_EQ(again.Json()["cost"]["canonical"]["macs"][0], macs[1]);
}

TEST(PruneCliE2e, RanksUnitsAcrossGroups) {
  const auto widths = [](const std::vector<std::string>& options) {
    std::vector<std::string> line = {"prune", "resnet20", "--macs", "0.5", "--dry-run", "--json"};
    line.insert(line.end(), options.begin(), options.end());
    const auto outcome = RunEspalier(line);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    const auto json = outcome.Json();
    const auto macs = json["cost"]["canonical"]["macs"];
    EXPECT_LE(macs[1].get<double>(), 0.5 * macs[0].get<double>());
    std::vector<size_t> kept;
    for (const auto& group : json["groups"]) kept.push_back(group["kept"].get<size_t>());
    return kept;
  };
  const auto local = widths({}), global = widths({"--criterion", "lamp", "--scope", "global"});
  EXPECT_EQ(local.size(), global.size());
  EXPECT_NE(local, global);
  EXPECT_NE(global, widths({"--criterion", "l2_norm(reduce=mean)", "--scope", "isomorphic",
                            "--normaliser", "max"}));
}

TEST(PruneCliE2e, DryRunWritesNothing) {
  const TempFolder temp;
  const auto dry = RunEspalier(
      {"prune", "resnet20", "--macs", "0.5", "--dry-run", "--out", (temp / "a").string()});
  EXPECT_EQ(dry.exit_code, 0) << dry.err;
  EXPECT_FALSE(fs::exists(temp / "a"));
  for (const char* part :
       {"layer3.2.conv1", "tensors that follow",
        "layer3.2.bn1.{bias,running_mean,running_var,weight}", "numbers in the graph",
        "constant_pad_nd", "what cannot go", "network output",
        "linear.weight axis 0: 10 coordinates", "activation bytes", "nothing was written"})
    EXPECT_NE(dry.out.find(part), std::string::npos) << part << '\n' << dry.out;
}

TEST(PruneCliE2e, DryRunSaysAsDataWhatThePlanDoes) {
  const TempFolder temp;
  const auto dry = RunEspalier(
      {"prune", "resnet20", "--macs", "0.5", "--exclude", "layer1.0.conv1", "--dry-run", "--json"});
  ASSERT_EQ(dry.exit_code, 0) << dry.err;
  const auto pruned = RunEspalier({"prune", "resnet20", "--macs", "0.5", "--exclude",
                                   "layer1.0.conv1", "--out", (temp / "a").string()});
  ASSERT_EQ(pruned.exit_code, 0) << pruned.err;
  const auto said = dry.Json(),
             plan = nlohmann::ordered_json::parse(ReadFile(temp / "a/plan.json"));
  ASSERT_EQ(said["groups"].size(), plan["groups"].size());
  for (size_t i = 0; i < plan["groups"].size(); ++i) {
    EXPECT_EQ(said["groups"][i]["kept"], plan["groups"][i]["kept"].size());
    EXPECT_EQ(said["groups"][i]["removed"].size() + plan["groups"][i]["kept"].size(),
              plan["groups"][i]["units"].get<size_t>());
  }
  ASSERT_EQ(said["parameters"].size(), plan["kept"].size());
  for (const auto& parameter : said["parameters"])
    for (const auto& [axis, kept] : plan["kept"][parameter["name"].get<std::string>()].items())
      EXPECT_EQ(parameter["to"][std::stoul(axis)], kept.size()) << parameter;
  bool excluded = false;
  for (const auto& pin : said["pinned"])
    excluded = excluded || (pin["parameter"] == "layer1.0.conv1.weight" &&
                            pin["reason"] == "excluded by 'layer1.0.conv1'");
  EXPECT_TRUE(excluded) << said["pinned"];
}

TEST(InspectCliE2e, JsonHasGroupsPinsAndEveryConvention) {
  const auto inspected = RunEspalier({"inspect", "resnet20", "--json"});
  ASSERT_EQ(inspected.exit_code, 0) << inspected.err;
  const auto json = inspected.Json();
  // Nine inner widths and one trunk per stage; option-A shortcuts tie the trunks of all stages.
  EXPECT_GE(json["groups"].size(), 10u);
  for (const auto& group : json["groups"]) {
    EXPECT_EQ(group["kind"], "channel");
    EXPECT_FALSE(group["members"].empty());
  }
  bool output_pinned = false;
  for (const auto& pin : json["pinned"])
    output_pinned = output_pinned || pin["parameter"] == "linear.weight";
  EXPECT_TRUE(output_pinned);
  EXPECT_EQ(json["cost"]["canonical"]["params"], 269722);  // 0.27 M: He et al. 2016, Table 6
  EXPECT_GT(json["cost"]["thop"]["macs"], json["cost"]["canonical"]["macs"]);
  const auto text = RunEspalier({"inspect", "resnet110", "--decouple-residuals"});
  ASSERT_EQ(text.exit_code, 0) << text.err;
  // 108 groups, two a block, in a line a stage.
  EXPECT_NE(text.out.find("layer3.{0-17}.conv{1-2}  x 36"), std::string::npos) << text.out;
  EXPECT_LT(std::count(text.out.begin(), text.out.end(), '\n'), 30);
}

TEST(InspectCliE2e, DrawsTheGraph) {
  const TempFolder temp;
  const auto drawn =
      RunEspalier({"inspect", "resnet20", "--graph", (temp / "g.dot").string(), "--quiet"});
  ASSERT_EQ(drawn.exit_code, 0) << drawn.err;
  const auto dot = ReadFile(temp / "g.dot");
  EXPECT_NE(dot.find("layer2.1.conv2"), std::string::npos);
  EXPECT_NE(dot.find("->"), std::string::npos);
}

TEST(InspectCliE2e, RendersWithGraphvizOrSaysHowToGetIt) {
  const TempFolder temp;
  const std::string file = (temp / "g.svg").string();
  const auto absent = RunEspalier({"inspect", "resnet20", "--graph", file}, {{"PATH", "/nowhere"}});
  EXPECT_EQ(absent.exit_code, 3);
  EXPECT_NE(absent.err.find("apt-get install graphviz"), std::string::npos) << absent.err;
  EXPECT_TRUE(fs::is_empty(temp.path()));
  const auto wrong = RunEspalier({"inspect", "resnet20", "--graph", (temp / "g.txt").string()});
  EXPECT_EQ(wrong.exit_code, 2);
  if (std::system("dot -V 2>/dev/null") != 0) GTEST_SKIP() << "Graphviz's dot is not installed";
  const auto drawn = RunEspalier({"inspect", "resnet20", "--graph", file, "--quiet"});
  ASSERT_EQ(drawn.exit_code, 0) << drawn.err;
  const auto svg = ReadFile(file);
  EXPECT_NE(svg.find("<svg"), std::string::npos);
  EXPECT_NE(svg.find("group layer2.1.conv1: 32 units"), std::string::npos) << "a tooltip";
}

TEST(ListCliE2e, DataSheetComesFromTheRegistry) {
  const auto sheet = RunEspalier({"list", "strategies", "autobot", "--json"});
  ASSERT_EQ(sheet.exit_code, 0) << sheet.err;
  const auto json = sheet.Json();
  EXPECT_EQ(json["name"], "autobot");
  bool found = false;
  for (const auto& key : json["keys"])
    if (key["key"] == "batches") found = key["default"] == "200" && key["type"] == "integer";
  EXPECT_TRUE(found) << json.dump();
  const auto sheets = RunEspalier({"list", "criteria", "--long"});
  EXPECT_EQ(sheets.exit_code, 0) << sheets.err;
  for (const char* part : {"wood_fisher: ", "arXiv:2203.07259", "as taylor(key=value, ...)",
                           "one of signed, batch, sample", "comparable across groups"})
    EXPECT_NE(sheets.out.find(part), std::string::npos) << part << '\n' << sheets.out;

  const auto text = RunEspalier({"list", "strategies", "autobot"});
  EXPECT_NE(text.out.find("2111.09635"), std::string::npos);
}

TEST(DoctorCliE2e, KnowsTheMachine) {
  const auto doctor = RunEspalier({"doctor", "--json"});
  ASSERT_EQ(doctor.exit_code, 0) << doctor.err;
  EXPECT_EQ(doctor.Json()["arithmetic_cpu"], "ok");
  EXPECT_EQ(doctor.Json()["threads"], 1);  // ESPALIER_THREADS of these tests
}

}  // namespace
}  // namespace espalier

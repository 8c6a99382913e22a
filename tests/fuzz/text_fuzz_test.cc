// Configs, plans, certificates, the run's database.

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "env/base/files.h"
#include "env/graph/builder.h"
#include "env/space/plan.h"
#include "experiments/delivery.h"
#include "experiments/run_config.h"
#include "experiments/run_folder.h"
#include "experiments/run_store.h"
#include "search/trial_journal.h"
#include "tests/fuzz/harness.h"
#include "tests/fuzz/mutators.h"
#include "tests/support/temp_folder.h"

namespace espalier::fuzz {
namespace {

namespace fs = std::filesystem;

constexpr const char* kConfig = R"(# A run, with a key of every type.
[model]
name = "resnet20"
shortcut = "A"

[data]
name = "cifar10"
mean = [0.4914, 0.4822, 0.4465]
std = [0.2023, 0.1994, 0.2010]
validation = 5000

[budget]
macs = 0.5
params = "150k"

[space]
decouple_residuals = true
exclude = ["layer1.*", 'fc']

[strategy]
name = "uniform"

[finetune]
epochs = 10
milestones = [3, 6]
lr = 5e-2
nesterov = false

[controls]
strategies = ["random"]

[run]
seed = 1
name = """
several
lines"""
)";

TEST(ConfigFuzzProperty, HostileToml) {
  std::string deep = "a", nested = "x = ";
  for (int i = 0; i < 20'000; ++i) deep += ".a";
  for (int i = 0; i < 20'000; ++i) nested += "[{a=";
  const std::vector<std::string> words = {"[",
                                          "]",
                                          "[[",
                                          "]]",
                                          "{",
                                          "}",
                                          "=",
                                          ".",
                                          ",",
                                          "#",
                                          "\"",
                                          "'",
                                          "\"\"\"",
                                          "'''",
                                          "\\",
                                          "\n",
                                          "inf",
                                          "nan",
                                          "1e999",
                                          "-9223372036854775808",
                                          "9223372036854775808",
                                          "0x",
                                          "0b1",
                                          "1_0",
                                          "true",
                                          "1979-05-27T07:32:00Z",
                                          "12:30:00",
                                          "a.b.c",
                                          "\"a.b\" = 1",
                                          "\"\" = 1",
                                          "data.name",
                                          "[data]",
                                          "[a.b]",
                                          "[[data]]",
                                          "[\"x.y\"]",
                                          "\"x.y\".z = 1",
                                          "data = 3",
                                          "include = \"\"",
                                          "include = \".\"",
                                          "include = \"mutant.toml\"",
                                          "include = [\"/nonexistent\", 1]",
                                          "include = \"/dev/zero\"",
                                          "\\u0000",
                                          "\"\\uD800\"",
                                          "\xff\xfe",
                                          std::string(1, '\0'),
                                          "[1, [2, [3]]]",
                                          "{a = 1, a = 2}",
                                          "{a = {b = {c = 1}}}",
                                          "\"55.84M\"",
                                          "\"1e400G\"",
                                          "[]",
                                          "[1, \"a\", true]",
                                          deep + " = 1",
                                          "[" + deep + "]",
                                          "x = {" + deep + " = 1}",
                                          nested,
                                          "x = \"\"\"a\"\"\"\"\"\n" + deep + " = 1",
                                          "x = {y = \"\"\"a\"\"\"\", " + deep + " = 1}"};
  FuzzReader(
      {.name = "config",
       .file = "mutant.toml",
       .good = {kConfig},
       .mutate = [&](Rng& rng) { return DamageText(rng, kConfig, words); },
       .read =
           [](const fs::path& path) {
             const RunConfig config = LoadRunConfig(path, {});
             ASSERT_TRUE(config.strategy);
             // What a run saves must be a config that says the same.
             WriteBytes(path.parent_path() / "resolved.toml", config.resolved_toml);
             ASSERT_EQ(
                 SettingsOf(LoadRunConfig(path.parent_path() / "resolved.toml", {}).resolved_toml)
                     .size(),
                 SettingsOf(config.resolved_toml).size());
           },
       .places = {"mutant.toml:", "problems in the config", "strategy.name", "includes itself",
                  "at most"},
       .kind = ErrorKind::kConfig});
}

/// A network with a plain, a depthwise and a grouped convolution, cut a little.
struct SmallCut {
  Network network;
  Space space;
  Plan plan;
};
SmallCut MakeSmallCut() {
  Builder b("small", 1);
  ValueId x = b.Input("x", {2, 3, 6, 6});
  x = b.Relu(b.BatchNorm2d("bn1", b.Conv2d("conv1", x, 3, 8, {.padding = 1}), 8));
  x = b.Conv2d("depthwise", x, 8, 8, {.padding = 1, .groups = 8});
  x = b.Relu(b.Conv2d("grouped", x, 8, 8, {.padding = 1, .groups = 2}));
  x = b.Relu(b.Conv2d("last", x, 8, 6, {.padding = 1}));
  Network network = b.Finish({b.Linear("fc", b.Flatten(b.GlobalAvgPool(x)), 6, 3)});
  Space space = BuildSpace(network);
  Selection selection = KeepAll(space);
  for (size_t g = 0; g < selection.size(); ++g) {
    const int64_t run = space.groups()[g].units / space.groups()[g].blocks;
    std::erase_if(selection[g], [&](int64_t unit) { return unit % run == 1; });
  }
  Plan plan = MakePlan(space, selection);
  return {std::move(network), std::move(space), std::move(plan)};
}

/// Two lines of a search's journal: the header and a batch of two trials.
std::string GoodJournal() {
  std::vector<Trial> batch(2);
  batch[0] = {.number = 0, .origin = "uniform", .proposal = {.decision = {1, 1}}, .kept = {4, 6}};
  batch[1] = {.number = 1, .origin = "evolution", .failed = true, .cause = "no \"memory\""};
  const TempFolder temp;
  WriteJournal(temp / "trials.jsonl", {"fingerprint", {batch}});
  return ReadFile(temp / "trials.jsonl");
}

TEST(TrialJournalFuzzProperty, HostileJournals) {
  const std::string good = GoodJournal();
  const size_t header = good.find('\n') + 1;
  const nlohmann::json batch = nlohmann::json::parse(good.substr(header));
  FuzzReader({.name = "trials",
              .file = "trials.jsonl",
              .good = {good},
              .mutate =
                  [&](Rng& rng) {
                    if (OneIn(rng, 3)) return DamageBytes(rng, good);
                    return good.substr(0, header) + DamageJson(rng, batch) + "\n";
                  },
              .read =
                  [&](const fs::path& path) {
                    const TrialJournal journal = ReadJournal(path);
                    const fs::path copy = path.string() + ".copy";
                    WriteJournal(copy, journal);
                    ASSERT_EQ(ReadTrials(copy).size(), ReadTrials(path).size());
                  },
              .places = {"line"},
              .kind = ErrorKind::kData});
}

TEST(PlanFuzzProperty, HostilePlans) {
  const SmallCut small = MakeSmallCut();
  const nlohmann::json good = ToJson(small.plan);
  FuzzReader({.name = "plan",
              .file = "plan.json",
              .good = {good.dump()},
              .mutate =
                  [&](Rng& rng) {
                    return OneIn(rng, 4) ? DamageBytes(rng, good.dump()) : DamageJson(rng, good);
                  },
              .read =
                  [&](const fs::path& path) {
                    const Plan plan = ReadPlan(path);
                    ASSERT_EQ(ToJson(PlanFromJson(ToJson(plan))), ToJson(plan));
                    try {  // a plan of another network is refused, whatever it says
                      MakePlan(small.space, SelectionOf(small.space, plan));
                      const ParameterStore cut = SliceStore(small.network.store, plan);
                      for (const std::string& name : cut.names()) TouchAll(cut.Get(name));
                    } catch (const Error& error) {
                      ASSERT_EQ(error.kind(), ErrorKind::kModel) << error.message();
                    }
                  },
              .places = {"plan", "byte", "line"}});
}

TEST(CertificateFuzzProperty, HostileCertificates) {
  const SmallCut small = MakeSmallCut();
  const TempFolder folder;
  const Network cut = Cut(small.network, small.plan);
  const CostModel cost(small.space);
  Selection selection = SelectionOf(small.space, small.plan);
  CutSource source;
  source.model.name = "small";
  WriteDelivery(folder.path(), {.network = cut,
                                .plan = small.plan,
                                .certificate = Certify(small.space, selection, small.plan, cut),
                                .cost = CostTable(small.space, cost, selection),
                                .source = source,
                                .normalisation = ""});
  const std::string text = ReadFile(folder / "certificate.json");
  const auto good = nlohmann::json::parse(text);
  FuzzReader(
      {.name = "certificate",
       .file = "certificate.json",
       .good = {text},
       .mutate =
           [&](Rng& rng) { return OneIn(rng, 4) ? DamageBytes(rng, text) : DamageJson(rng, good); },
       .read =
           [](const fs::path& path) {
             const SavedCertificate saved = ReadCertificate(path);
             ASSERT_GE(saved.source.model.classes, 0);
           },
       .places = {"'", "certificate: "}});
}

TEST(StageFuzzProperty, HostileMarkers) {
  const nlohmann::json good = {{"accuracy", 0.91},
                               {"cost", {{"canonical", {{"macs", {4, 2}}}}}},
                               {"run", "runs/a"},
                               {"controls", {{{"strategy", "uniform"}}}}};
  FuzzReader({.name = "stage marker",
              .file = "search.json",
              .good = {good.dump(2)},
              .mutate =
                  [&](Rng& rng) {
                    return OneIn(rng, 3) ? DamageBytes(rng, good.dump(2)) : DamageJson(rng, good);
                  },
              .read = [](const fs::path& path) { ASSERT_FALSE(ReadJson(path).dump().empty()); },
              .places = {"is not valid JSON"},
              .kind = ErrorKind::kIo});
}

TEST(RunStoreFuzzProperty, HostileDatabases) {
  const TempFolder folder;
  {
    RunStore store(folder / "good.db");
    for (int step = 0; step < 40; ++step) store.SetMetric("search", step, "loss", 1.0 / (1 + step));
    store.SetTrial({.name = "a", .status = "complete", .kept_json = "[1,2]", .macs = 10});
  }
  const std::string good = ReadFile(folder / "good.db");
  FuzzReader({.name = "run.db",
              .file = "mutant.db",
              .good = {good},
              .mutate = [&](Rng& rng) { return DamageBytes(rng, good); },
              .read =
                  [](const fs::path& path) {
                    for (const char* left : {"-wal", "-shm", "-journal"})
                      fs::remove(path.string() + left);
                    const RunStore store(path);
                    for (const auto& curve : store.Curves("search"))
                      ASSERT_FALSE(curve.points.empty());
                    store.Trials();
                  },
              .places = {},
              .kind = ErrorKind::kIo});
}

}  // namespace
}  // namespace espalier::fuzz

#include <nlohmann/json.hpp>
#include <optional>

#include "env/base/error.h"
#include "env/base/log.h"
#include "experiments/budget_options.h"
#include "experiments/commands/commands.h"
#include "experiments/data_options.h"
#include "experiments/latency_options.h"
#include "experiments/run_config.h"
#include "experiments/space_graph.h"
#include "experiments/space_json.h"
#include "experiments/space_text.h"

namespace espalier {
namespace {

/// What to look at, from the line or from the config of a run.
struct Subject {
  ModelConfig model;
  SpaceOptions space;
  BudgetConfig budget;
  LatencyConfig latency;
  std::string device = "auto";
  int64_t seed = 0;
};

Subject ReadSubject(const Arguments& arguments) {
  const std::string& word = arguments.positional()[0];
  if (!word.ends_with(".toml"))
    return {ReadModelOptions(arguments), ReadSpaceOptions(arguments), ReadBudgetOptions(arguments),
            ReadLatencyOptions(arguments), arguments.Text("device")};
  OptionList own;
  AddModelOptions(own);
  AddSpaceOptions(own);
  AddBudgetOptions(own);
  AddLatencyOptions(own);
  for (const auto& option : own.options())
    if (arguments.Has(option.name))
      throw Error(ErrorKind::kUsage, Str("--", option.name, " does not go with a config"),
                  Str("--set changes what '", word, "' says"));
  const RunConfig config = LoadRunConfig(word, arguments.List("set"));
  return {config.model,   ToOptions(config.space), config.budget,
          config.latency, config.run.device,       config.run.seed};
}

int RunInspect(const Arguments& arguments) {
  const std::string& graph = arguments.Text("graph");
  if (!graph.empty()) CheckGraphFile(graph);
  const Subject subject = ReadSubject(arguments);
  const ModelSource source = LoadModelSource(subject.model, static_cast<uint64_t>(subject.seed));
  const Space space = BuildSpace(source.network, subject.space);
  CostModel cost(space);
  std::optional<LatencyStudy> latency;
  if (subject.budget.latency_ms || subject.latency.report || arguments.Has("latency"))
    latency = AddLatency(space, subject.latency, ParseDevice(subject.device), cost);
  if (!graph.empty()) {
    WriteGraph(space, cost, graph);
    LogInfo("drew ", graph);
  }
  const bool all = arguments.Has("all");
  auto json = SpaceToJson(space, cost, all);
  json["convention"] = subject.budget.convention;
  json["reach"] = ReachToJson(cost, subject.budget);
  if (latency) json["latency"] = LatencyToJson(*latency);
  if (arguments.json())
    PrintJson(json);
  else
    Print(SpaceText(json, all));
  for (const auto& row : json["reach"])
    if (row.contains("met") && !row["met"].get<bool>()) return ExitCode(ErrorKind::kBudget);
  return 0;
}

void AddOptions(OptionList& add) {
  AddModelOptions(add);
  AddSpaceOptions(add);
  AddBudgetOptions(add);
  add.Flag("latency", "measure it: tables of the operators, checked on whole cut networks");
  AddLatencyOptions(add);
  add.List("set", "A.B=VALUE", "override one key of CONFIG, may be repeated");
  add.Flag("all", "a line for every group and pinned axis; in JSON also every unit's indices");
  add.Text("graph", "FILE", "", "draw layers and groups: .svg, .png, .pdf (by Graphviz) or .dot");
}

}  // namespace

const Command kInspectCommand = {
    .name = "inspect",
    .usage = "MODEL",
    .summary = "groups, units, what is pinned and why, cost, and which budgets can be met",
    .detail =
        "MODEL is FILE.pt2, NAME or NAME:weights.safetensors of a built-in network, or a\n"
        "TorchScript file, which needs --input-shape or --input; CONFIG.toml is that of a run, "
        "with\n"
        "its model, space and budget. A bound that cannot be met makes the exit code 4.\n"
        "docs/bring_your_model.md tells how to read what it prints.",
    .examples = {"espalier inspect resnet20", "espalier inspect model.pt2 --json",
                 "espalier inspect resnet50 --graph resnet50.svg",
                 "espalier inspect resnet56 --macs 0.4 --params 0.5 --keep 'layer3.*: 0.5..'",
                 "espalier inspect resnet56 --latency --latency-ms 0.5 --batch 8 --all",
                 "espalier inspect experiments/configs/quickstart.toml --set budget.macs=0.3",
                 "espalier inspect resnet56 --decouple-residuals --all"},
    .least_positional = 1,
    .most_positional = 1,
    .add_options = AddOptions,
    .run = RunInspect};

}  // namespace espalier

#include <nlohmann/json.hpp>

#include "env/base/log.h"
#include "experiments/commands/commands.h"
#include "experiments/data_options.h"
#include "experiments/space_graph.h"
#include "experiments/space_json.h"
#include "experiments/space_text.h"

namespace espalier {
namespace {

int RunInspect(const Arguments& arguments) {
  const std::string& graph = arguments.Text("graph");
  if (!graph.empty()) CheckGraphFile(graph);
  const ModelSource source = LoadModelSource(ReadModelOptions(arguments), 0);
  const Space space = BuildSpace(source.network, ReadSpaceOptions(arguments));
  const CostModel cost(space);
  if (!graph.empty()) {
    WriteGraph(space, cost, graph);
    LogInfo("drew ", graph);
  }
  const bool all = arguments.Has("all");
  const auto json = SpaceToJson(space, cost, all);
  if (arguments.json())
    PrintJson(json);
  else
    Print(SpaceText(json, all));
  return 0;
}

void AddOptions(OptionList& add) {
  AddModelOptions(add);
  AddSpaceOptions(add);
  add.Flag("all", "a line for every group and pinned axis; in JSON also every unit's indices");
  add.Text("graph", "FILE", "", "draw layers and groups: .svg, .png, .pdf (by Graphviz) or .dot");
}

}  // namespace

const Command kInspectCommand = {
    .name = "inspect",
    .usage = "MODEL",
    .summary = "groups, units, what is pinned and why, and cost",
    .detail =
        "MODEL is FILE.pt2, NAME or NAME:weights.safetensors of a built-in network, or a\n"
        "TorchScript file, which needs --input-shape or --input.\n"
        "docs/bring_your_model.md tells how to read what it prints.",
    .examples = {"espalier inspect resnet20", "espalier inspect model.pt2 --json",
                 "espalier inspect resnet50 --graph resnet50.svg",
                 "espalier inspect resnet56 --decouple-residuals --all"},
    .least_positional = 1,
    .most_positional = 1,
    .add_options = AddOptions,
    .run = RunInspect};

}  // namespace espalier

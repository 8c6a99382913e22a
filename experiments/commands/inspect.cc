#include <map>
#include <nlohmann/json.hpp>

#include "env/base/error.h"
#include "env/base/log.h"
#include "experiments/commands/commands.h"
#include "experiments/data_options.h"
#include "experiments/space_json.h"

namespace espalier {
namespace {

std::string InspectText(const Space& space, const nlohmann::ordered_json& json) {
  std::string text = Str(space.network().name, ": ", space.groups().size(), " groups, ",
                         space.total_units(), " units\n\n");
  TextTable groups({"group", "kind", "units", "blocks", "axes", "made by"});
  for (const auto& group : space.groups()) {
    std::string made_by;
    size_t producers = 0;
    for (const auto& member : group.members)
      if (member.role == MemberRole::kProducer && producers++ < 2)
        made_by += (made_by.empty() ? "" : ", ") + member.parameter;
    if (producers > 2) made_by += Str(" and ", producers - 2, " more");
    groups.Add({group.name, group.kind, Str(group.units), Str(group.blocks),
                Str(group.members.size()), made_by});
  }
  text += groups.Text("  ") + "\npinned:\n";
  std::map<std::string, std::pair<int64_t, std::string>> reasons;  // reason -> axes, an example
  for (const auto& pin : space.pins()) {
    auto& [axes, example] = reasons[pin.reason];
    if (axes++ == 0) example = pin.parameter;
  }
  TextTable pins({"axes", "reason", "for example"});
  for (const auto& [reason, found] : reasons) pins.Add({Str(found.first), reason, found.second});
  text += pins.Text("  ") + "\ncost:\n";
  TextTable cost({"convention", "MACs", "parameters"});
  for (const auto& [name, value] : json["cost"].items())
    if (value.is_object()) cost.Add({name, value["macs"].dump(), value["params"].dump()});
  text += cost.Text("  ") +
          Str("  activations at batch 1: ", json["cost"]["activation_bytes"].get<int64_t>(),
              " bytes\n");
  if (!json["uncounted"].empty()) {
    text += "\nnot counted by any convention:";
    for (const auto& name : json["uncounted"]) text += ' ' + name.get<std::string>();
    text += '\n';
  }
  return text;
}

int RunInspect(const Arguments& arguments) {
  const ModelSource source = LoadModelSource(ReadModelOptions(arguments), 0);
  const Space space = BuildSpace(source.network, ReadSpaceOptions(arguments));
  const CostModel cost(space);
  const auto json = SpaceToJson(space, cost);
  if (const auto& file = arguments.Text("graph"); !file.empty()) {
    WriteGraph(space, file);
    LogInfo("drew ", file);
  }
  if (arguments.json())
    PrintJson(json);
  else
    Print(InspectText(space, json));
  return 0;
}

void AddOptions(OptionList& add) {
  AddModelOptions(add);
  AddSpaceOptions(add);
  add.Text("graph", "FILE", "", "draw the operators and groups: .svg, .png, .pdf or .dot");
}

}  // namespace

const Command kInspectCommand = {
    .name = "inspect",
    .usage = "MODEL",
    .summary = "groups, units, what is pinned and why, and cost",
    .detail =
        "MODEL is FILE.pt2, NAME or NAME:weights.safetensors of a built-in network, or a\n"
        "TorchScript file, which needs --input-shape or --input.",
    .examples = {"espalier inspect resnet20", "espalier inspect model.pt2 --json",
                 "espalier inspect resnet56 --decouple-residuals --graph resnet56.svg"},
    .least_positional = 1,
    .most_positional = 1,
    .add_options = AddOptions,
    .run = RunInspect};

}  // namespace espalier

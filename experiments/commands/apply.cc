#include <filesystem>
#include <nlohmann/json.hpp>

#include "env/base/error.h"
#include "env/base/log.h"
#include "experiments/commands/commands.h"
#include "experiments/data_options.h"
#include "experiments/delivery.h"
#include "experiments/plan_text.h"

namespace espalier {
namespace {

using nlohmann::ordered_json;
namespace fs = std::filesystem;

/// A plan's indices must be those that its kept units have in this network.
void CheckKept(const Plan& plan, const Plan& here) {
  const auto differs = [](const std::string& name, const std::string& how) {
    throw Error(ErrorKind::kModel, Str("the plan ", how, " '", name, "'"),
                "is this the plan of another network?");
  };
  const nlohmann::json planned = ToJson(plan)["kept"], made = ToJson(here)["kept"];
  for (const auto& [name, axes] : made.items()) {
    if (!planned.contains(name)) differs(name, "leaves whole what its groups cut:");
    if (planned[name] != axes) differs(name, "keeps other indices than its groups do of");
  }
  for (const auto& [name, axes] : planned.items())
    if (!made.contains(name)) differs(name, "cuts what its groups leave whole:");
}

int RunApply(const Arguments& arguments) {
  const fs::path out = arguments.Text("out");
  if (out.empty()) throw Error(ErrorKind::kUsage, "espalier apply: --out DIR is missing");
  CheckOutFolder(out);
  fs::path file = arguments.positional()[0];
  if (fs::is_directory(file)) file /= "plan.json";
  const SavedPlan saved = ReadSavedPlan(file);
  const auto seed = static_cast<uint64_t>(arguments.Integer("seed"));
  const ModelSource source = LoadModelSource(ReadModelOptions(arguments, 1), seed);
  SpaceOptions options = ReadSpaceOptions(arguments);
  bool told = false;
  for (const char* option : {"decouple-residuals", "exclude", "attention", "depth"})
    told = told || arguments.Has(option);
  if (saved.space && !told) options = ToOptions(*saved.space);
  const Space space = BuildSpace(source.network, options);
  const Selection selection = SelectionOf(space, saved.plan);
  Plan plan = MakePlan(space, selection);
  CheckKept(saved.plan, plan);
  plan.source_sha256 = space.network().WeightsHash();
  if (!saved.plan.source_sha256.empty() && plan.source_sha256 != saved.plan.source_sha256)
    LogInfo("the plan was made for other weights of this network");

  ordered_json json = {{"plan", file.string()}, {"model", arguments.positional()[1]}};
  json.update(PlanEffects(space, plan));
  json["cost"] = CostTable(space, CostModel(space), selection);
  DeliverCut(out, {source, options, seed, space, selection, plan}, json, [](const auto&) {});
  if (arguments.json())
    PrintJson(json);
  else
    Print(CostChangeText(json["cost"], "canonical") + DeliveredText(json));
  return 0;
}

void AddOptions(OptionList& add) {
  add.Text("out", "DIR", "", "folder for model.pt2, weights, plan and certificate");
  add.Integer("seed", "N", 0, "of random weights and of the certificate's draws");
  AddModelOptions(add);
  AddSpaceOptions(add);
}

}  // namespace

const Command kApplyCommand = {
    .name = "apply",
    .usage = "PLAN MODEL",
    .summary = "replay a plan on other weights of the same network",
    .detail =
        "PLAN is a plan.json, or the folder that has it. The cut is made, certified and written "
        "as\n"
        "espalier prune does. How the residuals were decoupled and what was excluded is in the "
        "plan.\n"
        "For a model in Python there is scripts/apply_plan.py.",
    .examples = {"espalier apply cut/plan.json resnet20:other.safetensors --out other_cut",
                 "espalier apply cut/ model.pt2 --out again"},
    .least_positional = 2,
    .most_positional = 2,
    .add_options = AddOptions,
    .run = RunApply};

}  // namespace espalier

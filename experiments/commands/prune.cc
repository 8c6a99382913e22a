#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "criteria/criterion.h"
#include "env/base/error.h"
#include "env/base/log.h"
#include "env/base/registry.h"
#include "experiments/budget_options.h"
#include "experiments/commands/commands.h"
#include "experiments/data_options.h"
#include "experiments/delivery.h"
#include "experiments/folding.h"
#include "experiments/latency_options.h"
#include "experiments/plan_text.h"
#include "search/ranking.h"
#include "search/strategy.h"

namespace espalier {
namespace {

using nlohmann::ordered_json;

/// Seconds per part, in the order they happen.
class Stopwatch {
 public:
  void Lap(const std::string& part) {
    const auto now = std::chrono::steady_clock::now();
    seconds_[part] = std::chrono::duration<double>(now - last_).count();
    last_ = now;
  }
  const ordered_json& seconds() const { return seconds_; }

 private:
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
  ordered_json seconds_;
};

BudgetConfig ReadBudget(const Arguments& arguments) {
  const BudgetConfig budget = ReadBudgetOptions(arguments);
  if (!HasBounds(budget))
    throw Error(ErrorKind::kUsage, "espalier prune: no budget is given",
                "give --macs 0.5, --params 1.2M, --activation-bytes 0.5 or --latency-ms 0.5; "
                "several hold at once");
  return budget;
}

SearchResult Choose(const Arguments& arguments, const Environment& environment) {
  const RankingConfig config{
      .criterion = arguments.Text("criterion"),
      .scope = {.scope = arguments.Text("scope"), .normaliser = arguments.Text("normaliser")}};
  const Needs needs = MakeCriterion(config.criterion)->needs();
  if (!needs.empty())
    throw Error(ErrorKind::kUsage,
                Str("--criterion ", config.criterion, " needs data (", NeedName(*needs.begin()),
                    " statistics), and prune has none"),
                "espalier run with strategy.name = \"ranking\" calibrates on [data]");
  SearchContext context;
  context.seed = static_cast<uint64_t>(arguments.Integer("seed"));
  return RankingSearch(config).Run(environment, context);
}

std::string ResultText(const Arguments& arguments, const ordered_json& json) {
  std::string text;
  if (arguments.Has("dry-run"))
    text = Str("what goes, by the smallest ", arguments.Text("criterion"),
               arguments.Text("scope") == "local"
                   ? " in its group, at one keep ratio for all groups:\n"
                   : Str(", ranked ", arguments.Text("scope"), ":\n"),
               PlanEffectsText(json, arguments.Has("all")), "\n");
  text += CostChangeText(json["cost"], arguments.Text("convention"));
  if (json.contains("latency")) {
    const auto& cost = json["cost"];
    const auto& macs = cost["canonical"]["macs"];
    const auto& ms = cost["latency_ms"];
    text += LatencyText(json["latency"], arguments.Has("all"));
    const std::string verdict = LatencyVerdict(macs[0], macs[1], ms[0], ms[1]);
    if (!verdict.empty()) text += Wrapped(verdict, "");
  }
  if (arguments.Has("dry-run")) return text + "nothing was written (--dry-run)\n";
  return text + DeliveredText(json);
}

int RunPrune(const Arguments& arguments) {
  const bool dry = arguments.Has("dry-run");
  const std::filesystem::path out = arguments.Text("out");
  if (out.empty() && !dry)
    throw Error(ErrorKind::kUsage, "espalier prune: --out DIR is missing",
                "or --dry-run to see what would go");
  if (!out.empty()) CheckOutFolder(out);
  const BudgetConfig budget_config = ReadBudget(arguments);
  const auto seed = static_cast<uint64_t>(arguments.Integer("seed"));
  Stopwatch watch;
  const ModelSource source = LoadModelSource(ReadModelOptions(arguments), seed);
  watch.Lap("read");
  const SpaceOptions options = ReadSpaceOptions(arguments);
  const Space space = PrunableSpace(source.network, options);
  watch.Lap("trace");
  CostModel cost(space);
  std::optional<LatencyStudy> latency;
  if (budget_config.latency_ms) {
    latency = AddLatency(space, ReadLatencyOptions(arguments),
                         ParseDevice(arguments.Text("device")), cost);
    watch.Lap("latency");
  }
  const Budget budget(cost, budget_config);
  watch.Lap("groups");
  const Environment environment{.space = space, .cost = cost, .budget = budget};
  const SearchResult found = Choose(arguments, environment);
  Plan plan = MakePlan(space, found.selection);
  watch.Lap("plan");

  ordered_json json = {{"model", arguments.positional()[0]}};
  json.update(PlanEffects(space, plan));
  json["cost"] = CostTable(space, cost, found.selection);
  if (latency) json["latency"] = LatencyToJson(*latency);
  if (!dry) {
    plan.source_sha256 = space.network().WeightsHash();
    DeliverCut(out, {source, options, seed, space, found.selection, plan}, json,
               [&](const std::string& part) { watch.Lap(part); });
  }
  json["seconds"] = watch.seconds();
  if (arguments.json())
    PrintJson(json);
  else
    Print(ResultText(arguments, json));
  return 0;
}

void AddOptions(OptionList& add) {
  AddBudgetOptions(add);
  AddLatencyOptions(add);
  add.Text("criterion", "NAME", "l1_norm",
           "what units stay; see espalier list criteria; options as NAME(key=value, ...)");
  add.Text("scope", "NAME", "local",
           "what is ranked together: local, global, global_per_cost, isomorphic, entropy_softmax");
  add.Text("normaliser", "NAME", "none", "of each group's scores: mean, max, lamp, ...");
  add.Text("out", "DIR", "", "folder for model.pt2, weights, plan and certificate");
  add.Flag("dry-run", "say what goes, what follows and what cannot go; write nothing");
  add.Flag("all", "with --dry-run: a line for every group and tensor, and which units go");
  add.Integer("seed", "N", 0, "of random weights and random criteria");
  AddModelOptions(add);
  AddSpaceOptions(add);
}

}  // namespace

const Command kPruneCommand = {
    .name = "prune",
    .usage = "MODEL",
    .summary = "one shot by a criterion, no data needed",
    .detail =
        "Which units stay is the criterion's choice; --scope local keeps the same ratio in every\n"
        "group, the others rank units across groups.\n"
        "espalier run searches instead, and fine-tunes.",
    .examples = {"espalier prune resnet20:weights.safetensors --macs 0.5 --out /tmp/pruned",
                 "espalier prune model.pt2 --macs 0.5 --params 0.6 --dry-run",
                 "espalier prune model.pt2 --macs 0.5 --criterion 'l2_norm(reduce=mean)' "
                 "--scope global --normaliser mean --dry-run"},
    .least_positional = 1,
    .most_positional = 1,
    .add_options = AddOptions,
    .run = RunPrune};

}  // namespace espalier

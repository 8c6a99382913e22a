#include <nlohmann/json.hpp>
#include <optional>
#include <type_traits>

#include "criteria/criterion.h"
#include "criteria/regularisers/regulariser.h"
#include "env/base/error.h"
#include "env/base/registry.h"
#include "env/cost/budget.h"
#include "env/data/splits.h"
#include "env/models/models.h"
#include "env/train/trainer.h"
#include "experiments/commands/commands.h"
#include "experiments/run_config.h"
#include "search/refine.h"
#include "search/strategy.h"

namespace espalier {
namespace {

using nlohmann::ordered_json;

/// One thing that can be named in a config or on the command line.
struct Sheet {
  EntryInfo info;
  ordered_json keys = ordered_json::array();  ///< what [section] accepts
  std::optional<NeedsSheet> needs{};          ///< of a criterion
};
struct Kind {
  std::string name;  ///< plural, as typed
  std::string summary;
  std::vector<Sheet> sheets;
};

ordered_json KeysOf(const Schema& schema) {
  ordered_json keys = ordered_json::array();
  for (const Field& field : schema.fields())
    keys.push_back({{"key", field.name},
                    {"type", TypeName(field)},
                    {"default", CurrentValue(field)},
                    {"allowed", RangeText(field)},
                    {"doc", field.doc}});
  return keys;
}

template <typename T>
std::vector<Sheet> RegistrySheets() {
  std::vector<Sheet> sheets;
  for (const auto& name : Registry<T>::Global().Names()) {
    const auto& entry = *Registry<T>::Global().Find(name);
    Sheet sheet{.info = entry.info};
    entry.describe([&](const Schema& schema) { sheet.keys = KeysOf(schema); });
    if constexpr (std::is_same_v<T, Criterion>) sheet.needs = NeedsOf(name);
    sheets.push_back(std::move(sheet));
  }
  return sheets;
}

template <typename Config>
Sheet SectionSheet(const std::string& name, const std::string& summary) {
  Config config;
  return {.info = {.name = name, .summary = summary, .source = "config table"},
          .keys = KeysOf(Describe(config))};
}

std::vector<Kind> AllKinds() {
  Kind models{"models", "built-in networks", {}};
  for (const auto& model : BuiltinModels())
    models.sheets.push_back(
        {.info = {.name = model.name, .summary = model.summary, .source = model.source}});
  Kind tables{"tables", "tables of a config and their keys", {}};
  tables.sheets = {SectionSheet<ModelConfig>("model", "the network to prune or train"),
                   SectionSheet<DataConfig>("data", "samples, splits and normalisation"),
                   SectionSheet<TaskConfig>("task", "what networks are judged and trained by"),
                   SectionSheet<BudgetConfig>("budget", "bounds the pruned network must meet"),
                   SectionSheet<LatencyConfig>("latency", "how the time of a forward is measured"),
                   SectionSheet<SpaceConfig>("space", "what may be pruned"),
                   SectionSheet<SparsifyConfig>("sparsify", "training for sparsity before the cut"),
                   SectionSheet<RefineConfig>("refine", "repair right after the cut"),
                   SectionSheet<TrainConfig>("finetune", "training after the cut; also [train]"),
                   SectionSheet<ControlsConfig>("controls", "strategies to compare with"),
                   SectionSheet<RunSettings>("run", "seed, folder and device")};
  return {{"strategies", "search methods: [strategy] name", RegistrySheets<Strategy>()},
          {"criteria", "scores of units: which ones stay", RegistrySheets<Criterion>()},
          {"regularisers", "what makes units small: [sparsify] regulariser",
           RegistrySheets<Regulariser>()},
          {"losses", "what search and training make small: [task] loss", RegistrySheets<Loss>()},
          {"metrics", "what networks are compared by: [task] metric", RegistrySheets<Metric>()},
          std::move(models),
          std::move(tables)};
}

ordered_json ToJson(const Sheet& sheet) {
  ordered_json json = {
      {"name", sheet.info.name}, {"summary", sheet.info.summary}, {"source", sheet.info.source}};
  if (!sheet.info.facts.empty()) json["facts"] = sheet.info.facts;
  if (sheet.needs) {
    const auto names = [](const Needs& needs) {
      ordered_json list = ordered_json::array();
      for (const Need need : needs) list.push_back(NeedName(need));
      return list;
    };
    json["needs"] = names(sheet.needs->defaults);
    for (const auto& [option, needs] : sheet.needs->with) json["needs_with"][option] = names(needs);
  }
  if (!sheet.keys.empty()) json["keys"] = sheet.keys;
  return json;
}

std::string SheetText(const std::string& kind, const Sheet& sheet) {
  std::string text = Str(sheet.info.name, ": ", sheet.info.summary, "\n");
  text += Str("  source  ", sheet.info.source, "\n");
  for (size_t i = 0; i < sheet.info.facts.size(); ++i)
    text += (i == 0 ? "  facts   " : ", ") + sheet.info.facts[i];
  if (!sheet.info.facts.empty()) text += "\n";
  if (sheet.needs) {
    text += Str("  needs   ", NeedsText(sheet.needs->defaults), "\n");
    for (const auto& [option, needs] : sheet.needs->with)
      text += Str("          ", NeedsText(needs), " with ", option, "\n");
  }
  if (sheet.keys.empty()) return text + "  no keys of its own\n";
  const std::string where = kind == "strategies" ? " of [strategy] beside name"
                            : kind == "criteria" || kind == "regularisers"
                                ? Str(", as ", sheet.info.name, "(key=value, ...)")
                                : "";
  text += Str("\nkeys", where, ":\n");
  TextTable table({"key", "type", "default", "allowed", "meaning"});
  for (const auto& key : sheet.keys)
    table.Add(
        {key["key"], key["type"],
         key["default"].get<std::string>().empty() ? "not set" : key["default"].get<std::string>(),
         key["allowed"], key["doc"]});
  return text + table.Text("  ");
}

const Kind& FindKind(const std::vector<Kind>& kinds, const std::string& name) {
  std::vector<std::string> names;
  for (const auto& kind : kinds) {
    const std::string singular = kind.name == "strategies" ? "strategy"
                                 : kind.name == "criteria" ? "criterion"
                                 : kind.name == "losses"
                                     ? "loss"
                                     : kind.name.substr(0, kind.name.size() - 1);
    if (name == kind.name || name == singular) return kind;
    names.push_back(kind.name);
  }
  throw Error(ErrorKind::kUsage, Str("unknown kind '", name, "'"), SuggestName(name, names));
}

int RunList(const Arguments& arguments) {
  const auto kinds = AllKinds();
  const auto& words = arguments.positional();
  if (words.size() == 2) {
    const Kind& kind = FindKind(kinds, words[0]);
    std::vector<std::string> names;
    for (const auto& sheet : kind.sheets) {
      names.push_back(sheet.info.name);
      if (sheet.info.name != words[1]) continue;
      if (arguments.json())
        PrintJson(ToJson(sheet));
      else
        Print(SheetText(kind.name, sheet));
      return 0;
    }
    throw Error(ErrorKind::kUsage, Str("unknown name '", words[1], "' among ", kind.name),
                SuggestName(words[1], names));
  }
  std::vector<Kind> shown = kinds;
  if (words.size() == 1) shown = {FindKind(kinds, words[0])};
  ordered_json json = ordered_json::object();
  std::string text;
  for (const auto& kind : shown) {
    json[kind.name] = ordered_json::array();
    text += Str(text.empty() ? "" : "\n", kind.name, ": ", kind.summary, "\n");
    TextTable table({});
    for (const auto& sheet : kind.sheets) {
      json[kind.name].push_back(ToJson(sheet));
      if (arguments.Has("long"))
        text += "\n" + SheetText(kind.name, sheet);
      else
        table.Add({sheet.info.name, sheet.info.summary});
    }
    if (!arguments.Has("long")) text += table.Text("  ");
  }
  if (arguments.json())
    PrintJson(json);
  else
    Print(text + "\nespalier list KIND NAME shows a data sheet.\n");
  return 0;
}

void AddListOptions(OptionList& add) {
  add.Flag("long", "the whole data sheet of everything listed");
}

}  // namespace

const Command kListCommand = {
    .name = "list",
    .usage = "[KIND] [NAME]",
    .summary = "what is registered, from its data sheet",
    .detail = {},
    .examples = {"espalier list", "espalier list models", "espalier list strategies autobot",
                 "espalier list criteria --long"},
    .least_positional = 0,
    .most_positional = 2,
    .add_options = AddListOptions,
    .run = RunList};

}  // namespace espalier

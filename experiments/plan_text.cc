#include "experiments/plan_text.h"

#include <algorithm>
#include <map>

#include "env/base/error.h"
#include "experiments/budget_options.h"
#include "experiments/command_line.h"
#include "experiments/folding.h"
#include "experiments/space_json.h"
#include "experiments/space_text.h"

namespace espalier {
namespace {

using nlohmann::ordered_json;

constexpr size_t kFewLines = 40;  // that many fit on a page: nothing is folded
constexpr size_t kNameWidth = 62;
constexpr size_t kListWidth = 30;

std::vector<int64_t> SizesAfter(const std::vector<int64_t>& sizes,
                                const std::vector<KeptAxis>& axes) {
  std::vector<int64_t> after = sizes;
  for (const KeptAxis& axis : axes)
    after.at(static_cast<size_t>(axis.axis)) = static_cast<int64_t>(axis.kept.front().size());
  return after;
}

ordered_json GroupEffect(const Group& group, const std::vector<int64_t>& kept) {
  std::vector<int64_t> removed;
  for (int64_t unit = 0; unit < group.units; ++unit)
    if (!std::binary_search(kept.begin(), kept.end(), unit)) removed.push_back(unit);
  return {{"name", group.name},
          {"kind", group.kind},
          {"units", group.units},
          {"kept", kept.size()},
          {"removed", removed}};
}

/// Names of the folded items of one row.
std::string RowName(const std::vector<std::string>& names, const std::vector<size_t>& row,
                    size_t width) {
  std::vector<std::string> merged;
  for (const size_t i : row) merged.push_back(names[i]);
  const std::string name = width ? Shortened(MergedName(merged), width) : MergedName(merged);
  return row.size() > 1 ? Str(name, "  x ", row.size()) : name;
}

std::string GroupsText(const ordered_json& groups, bool all) {
  std::vector<std::string> names, rest;
  for (const auto& group : groups) {
    names.push_back(group["name"]);
    rest.push_back(Str(group["units"], ' ', group["kept"]));
  }
  TextTable table({"group", "units", "kept", "removed"});
  std::string units;
  for (const auto& row : FoldNames(names, rest, !all && names.size() > kFewLines)) {
    const auto& first = groups[row[0]];
    const int64_t before = first["units"], after = first["kept"];
    table.Add(
        {RowName(names, row, all ? 0 : kNameWidth), Str(before), Str(after), Str(before - after)});
  }
  if (all)
    for (const auto& group : groups)
      units += Wrapped(Str("  ", group["name"].get<std::string>(), ": ",
                           NumberRanges(group["removed"].get<std::vector<int64_t>>(), ", ")),
                       "  ");
  return table.Text("  ") + (all ? "removed units:\n" + units : "");
}

std::string Sizes(const ordered_json& sizes) {  // "16x3x3x3" with a proper sign
  std::string text;
  for (const auto& size : sizes) text += (text.empty() ? "" : "\u00d7") + size.dump();
  return text;
}

/// Tensors of one module that change in the same way, as "bn1.{bias,running_mean,weight}".
struct ModuleTensors {
  std::string module, before, after;
  std::vector<std::string> leaves;

  std::string Name() const {
    std::string text = module;
    for (const auto& leaf : leaves)
      text += (&leaf != &leaves.front() ? "," : leaves.size() > 1 ? "{" : "") + leaf;
    return leaves.size() > 1 ? text + '}' : text;
  }
};

std::vector<ModuleTensors> ByModule(const ordered_json& parameters) {
  std::vector<ModuleTensors> tensors;
  std::map<std::vector<std::string>, size_t> known;
  for (const auto& parameter : parameters) {
    const std::string name = parameter["name"];
    const size_t leaf = name.rfind('.') + 1;  // 0 when there is no dot
    ModuleTensors one{name.substr(0, leaf), Sizes(parameter["from"]), Sizes(parameter["to"]), {}};
    const auto [found, fresh] =
        known.emplace(std::vector{one.module, one.before, one.after}, tensors.size());
    if (fresh) tensors.push_back(std::move(one));
    tensors[found->second].leaves.push_back(name.substr(leaf));
  }
  return tensors;
}

std::string ParametersText(const ordered_json& parameters, bool all) {
  std::vector<std::string> names, rest;
  const auto tensors = ByModule(parameters);
  for (const auto& one : tensors) {
    names.push_back(one.Name());
    rest.push_back(one.before + ' ' + one.after);
  }
  TextTable table({"tensor", "before", "after"});
  for (const auto& row : FoldNames(names, rest, !all && names.size() > kFewLines))
    table.Add(
        {RowName(names, row, all ? 0 : kNameWidth), tensors[row[0]].before, tensors[row[0]].after});
  return table.Text("  ");
}

std::string EditsText(const ordered_json& edits, bool all) {
  std::vector<std::string> names, rest;
  for (const auto& edit : edits) {
    names.push_back(edit["node"]);
    rest.push_back(Str(edit["op"], edit["argument"], edit["from"], edit["to"]));
  }
  TextTable table({"operator", "argument", "before", "after"});
  const auto list = [&](const ordered_json& value) {
    return all ? value.dump() : Shortened(value.dump(), kListWidth);
  };
  for (const auto& row : FoldNames(names, rest, !all)) {
    const auto& first = edits[row[0]];
    table.Add({RowName(names, row, all ? 0 : kNameWidth / 2), first["argument"],
               list(first["from"]), list(first["to"])});
  }
  return table.Text("  ");
}

}  // namespace

ordered_json PlanEffects(const Space& space, const Plan& plan) {
  ordered_json effects = {{"groups", ordered_json::array()}, {"parameters", ordered_json::array()}};
  for (const auto& kept : plan.groups) {
    const int32_t index = space.FindGroup(kept.name);
    ESPALIER_CHECK(index >= 0, "no group '", kept.name, "'");
    effects["groups"].push_back(GroupEffect(space.groups()[static_cast<size_t>(index)], kept.kept));
  }
  for (const auto& [name, axes] : plan.kept) {
    if (std::binary_search(plan.removed.begin(), plan.removed.end(), name)) continue;
    const auto sizes = space.network().store.Get(name).sizes().vec();
    effects["parameters"].push_back(
        {{"name", name}, {"from", sizes}, {"to", SizesAfter(sizes, axes)}});
  }
  effects["edits"] = ordered_json::parse(ToJson(plan)["edits"].dump());
  effects["branches"] = ordered_json::array();
  for (const auto& branch : plan.branches) effects["branches"].push_back(branch.node);
  effects["removed"] = plan.removed;
  effects["renumbered"] = ordered_json::array();
  for (const auto& [name, kept] : plan.renumbered) effects["renumbered"].push_back(name);
  effects["pinned"] = PinsToJson(space);
  return effects;
}

std::string PlanEffectsText(const ordered_json& effects, bool all) {
  std::string text = GroupsText(effects["groups"], all);
  if (!effects["parameters"].empty())
    text += "\ntensors that follow:\n" + ParametersText(effects["parameters"], all);
  if (!effects["removed"].empty()) {
    const auto names = effects["removed"].get<std::vector<std::string>>();
    text += Str("\ntensors that go with ", effects["branches"].size(), " residual branches:\n");
    for (const auto& row : FoldNames(names, std::vector<std::string>(names.size()), !all))
      text += "  " + RowName(names, row, 0) + '\n';
  }
  if (!effects["edits"].empty())
    text += "\nnumbers in the graph that follow:\n" + EditsText(effects["edits"], all);
  if (!effects["renumbered"].empty()) {
    const auto names = effects["renumbered"].get<std::vector<std::string>>();
    text += "\nlists of indices that are numbered anew:\n";
    for (const auto& row : FoldNames(names, std::vector<std::string>(names.size()), !all))
      text += "  " + RowName(names, row, 0) + '\n';
  }
  if (!effects["pinned"].empty())
    text += "\nwhat cannot go, under what forbids it:\n" + PinsText(effects["pinned"], all);
  return text;
}

std::string CostChangeText(const ordered_json& cost, const std::string& convention) {
  const auto& counted = cost.at(convention);
  TextTable table({"", "before", "after", ""});
  const auto add = [&](const std::string& label, const ordered_json& change) {
    const double before = change[0], after = change[1];
    table.Add({label, Millions(before), Millions(after), Percent(after / before, 1)});
  };
  add("MACs", counted["macs"]);
  add("parameters", counted["params"]);
  add("activation bytes", cost["activation_bytes"]);
  if (cost.contains("latency_ms")) {
    const double before = cost["latency_ms"][0], after = cost["latency_ms"][1];
    table.Add({"latency, predicted", CostText("latency_ms", before), CostText("latency_ms", after),
               Percent(after / before, 1)});
  }
  return table.Text();
}

std::string DeliveredText(const ordered_json& json) {
  return Str("certificate: relative error ", json["certificate"]["max_rel_error"].get<double>(),
             ", passed\nwritten to ", json["out"].get<std::string>(), "\n");
}

}  // namespace espalier

#include <ATen/ATen.h>

#include <nlohmann/json.hpp>

#include <algorithm>

#include "env/base/error.h"
#include "env/graph/checked_json.h"
#include "env/space/plan.h"

namespace espalier {
namespace {

using nlohmann::json;

[[noreturn]] void Bad(const std::string& path, const std::string& what) {
  throw Error(ErrorKind::kModel, Str("plan", path, ": ", what));
}

/// What `read` makes of a value; its errors get the JSON path.
template <typename Read>
auto At(const std::string& path, const Read& read) {
  try {
    return read();
  } catch (const Error& error) {
    Bad(path, error.message());
  }
}

const json& Field(const json& object, const std::string& path, const char* key) {
  if (!object.is_object() || !object.contains(key)) Bad(path, Str("'", key, "' is missing"));
  return object.at(key);
}

const json& ListField(const json& object, const std::string& path, const char* key) {
  const json& list = Field(object, path, key);
  if (!list.is_array()) Bad(Str(path, ".", key), "expected a list");
  return list;
}

int64_t Integer(const json& value, const std::string& path) {
  return At(path, [&] { return IntOf(value); });
}

std::vector<int64_t> Ascending(const json& list, const std::string& path) {
  if (!list.is_array()) Bad(path, "expected a list of integers");
  std::vector<int64_t> indices;
  for (const json& item : list) indices.push_back(Integer(item, path));
  if ((!indices.empty() && indices.front() < 0) ||
      std::adjacent_find(indices.begin(), indices.end(), std::greater_equal<>()) != indices.end())
    Bad(path, "kept indices must be ascending and not negative");
  return indices;
}

std::vector<int64_t> Indices(const json& list, const std::string& path) {
  std::vector<int64_t> indices = Ascending(list, path);
  if (indices.empty()) Bad(path, "kept indices must be ascending, not negative and not empty");
  return indices;
}

std::string Text(const json& value, const std::string& path) {
  return At(path, [&] { return TextOf(value); });
}

KeptAxis ReadKeptAxis(const std::string& axis, const json& value, const std::string& path) {
  KeptAxis kept;
  const auto digit = [](char c) { return c >= '0' && c <= '9'; };
  const bool padded = axis.size() > 1 && axis.front() == '0';  // "00" would be axis 0 once more
  if (axis.empty() || axis.size() > 2 || padded || !std::all_of(axis.begin(), axis.end(), digit))
    Bad(path, "an axis is a small number");
  kept.axis = std::stoll(axis);
  if (value.is_array()) {
    kept.kept.push_back(Indices(value, path));
    return kept;
  }
  if (Field(value, path, "per") != 0) Bad(path, "'per' must be 0");
  if (kept.axis == 0) Bad(path, "axis 0 cannot be cut per block of itself");
  for (const json& list : ListField(value, path, "kept")) kept.kept.push_back(Indices(list, path));
  for (const auto& list : kept.kept)
    if (list.size() != kept.kept.front().size()) Bad(path, "blocks keep unequal counts");
  if (kept.kept.size() < 2) Bad(path, "'kept' needs one list a block");
  return kept;
}

json ListOrNumber(const std::vector<int64_t>& values, bool is_list) {
  if (!is_list) return values.front();
  json list = json::array();
  for (const int64_t value : values) list.push_back(value == kComputed ? json() : json(value));
  return list;
}

/// A literal's entries: integers, null where the network computes them.
std::vector<int64_t> Entries(const json& value, const std::string& path, bool is_list) {
  if (!is_list) return {Integer(value, path)};
  if (!value.is_array()) Bad(path, "'from' and 'to' must both be lists, or both integers");
  std::vector<int64_t> entries;
  for (const json& item : value) {
    if (!item.is_null() && !item.is_number_integer())
      Bad(path, "expected integers, or null for computed entries");
    entries.push_back(item.is_null() ? kComputed : Integer(item, path));
  }
  return entries;
}

LiteralEdit ReadEdit(const json& value, const std::string& path) {
  LiteralEdit edit;
  edit.node = Text(Field(value, path, "node"), path);
  edit.op = Text(Field(value, path, "op"), path);
  edit.argument = Text(Field(value, path, "argument"), path);
  const json &from = Field(value, path, "from"), &to = Field(value, path, "to");
  edit.is_list = from.is_array();
  edit.from = Entries(from, path, edit.is_list);
  edit.to = Entries(to, path, edit.is_list);
  if (edit.from.size() != edit.to.size()) Bad(path, "'from' and 'to' differ in length");
  if (edit.to.empty()) Bad(path, "'to' is empty");
  if (value.contains("module")) edit.module = Text(value.at("module"), path);
  return edit;
}

}  // namespace

json ToJson(const Plan& plan) {
  json out = {{"format", "espalier-plan"},
              {"version", 1},
              {"source", {{"sha256", plan.source_sha256}, {"name", plan.source_name}}},
              {"kept", json::object()},
              {"groups", json::array()},
              {"edits", json::array()},
              {"renumbered", plan.renumbered}};
  for (const auto& [name, axes] : plan.kept)
    for (const KeptAxis& axis : axes)
      out["kept"][name][std::to_string(axis.axis)] =
          axis.kept.size() == 1 ? json(axis.kept[0]) : json{{"per", 0}, {"kept", axis.kept}};
  for (const Plan::GroupKept& group : plan.groups)
    out["groups"].push_back({{"name", group.name}, {"units", group.units}, {"kept", group.kept}});
  for (const LiteralEdit& edit : plan.edits)
    out["edits"].push_back({{"node", edit.node},
                            {"op", edit.op},
                            {"argument", edit.argument},
                            {"from", ListOrNumber(edit.from, edit.is_list)},
                            {"to", ListOrNumber(edit.to, edit.is_list)}});
  if (!plan.folded.empty()) out["folded"] = plan.folded;
  if (plan.branches.empty()) return out;
  for (const Plan::BranchRemoved& branch : plan.branches)
    out["branches"].push_back({{"node", branch.node}, {"module", branch.module}});
  out["removed"] = plan.removed;
  return out;
}

Plan PlanFromJson(const json& in) {
  if (Text(Field(in, "", "format"), ".format") != "espalier-plan" || Field(in, "", "version") != 1)
    Bad("", "not an espalier-plan of version 1");
  Plan plan;
  const json& source = Field(in, "", "source");
  plan.source_sha256 = Text(Field(source, ".source", "sha256"), ".source.sha256");
  plan.source_name = Text(Field(source, ".source", "name"), ".source.name");
  const json& kept = Field(in, "", "kept");
  if (!kept.is_object()) Bad(".kept", "expected an object");
  for (const auto& [name, axes] : kept.items()) {
    if (!axes.is_object()) Bad(".kept." + name, "expected an object of axes");
    for (const auto& [axis, value] : axes.items())
      plan.kept[name].push_back(ReadKeptAxis(axis, value, Str(".kept.", name, ".", axis)));
  }
  for (const json& group : ListField(in, "", "groups")) {
    const std::string path = Str(".groups[", plan.groups.size(), "]");
    const int64_t units = Integer(Field(group, path, "units"), path + ".units");
    plan.groups.push_back({Text(Field(group, path, "name"), path), units,
                           Ascending(Field(group, path, "kept"), path)});
    const auto& units_kept = plan.groups.back().kept;  // empty: a branch that goes
    if (!units_kept.empty() && units_kept.back() >= units)
      Bad(path, Str("it keeps unit ", units_kept.back(), " of ", units));
  }
  for (const json& edit : ListField(in, "", "edits"))
    plan.edits.push_back(ReadEdit(edit, Str(".edits[", plan.edits.size(), "]")));
  if (in.contains("branches"))
    for (const json& branch : ListField(in, "", "branches")) {
      const std::string path = Str(".branches[", plan.branches.size(), "]");
      plan.branches.push_back(
          {Text(Field(branch, path, "node"), path), Text(Field(branch, path, "module"), path)});
    }
  const auto names = [&](const char* key, std::vector<std::string>& to) {
    if (!in.contains(key)) return;
    for (const json& name : ListField(in, "", key)) to.push_back(Text(name, Str(".", key)));
  };
  names("folded", plan.folded);
  names("removed", plan.removed);
  std::sort(plan.removed.begin(), plan.removed.end());
  if (in.contains("renumbered")) {
    if (!in.at("renumbered").is_object()) Bad(".renumbered", "expected an object");
    for (const auto& [name, list] : in.at("renumbered").items())
      plan.renumbered[name] = Indices(list, ".renumbered." + name);
  }
  return plan;
}

Plan ReadPlan(const std::filesystem::path& path) {
  const json parsed = ReadCheckedJson(path);
  try {
    return PlanFromJson(parsed);
  } catch (const Error& error) {
    throw Error(ErrorKind::kModel, Str("'", path.string(), "': ", error.message()), error.hint());
  }
}

}  // namespace espalier

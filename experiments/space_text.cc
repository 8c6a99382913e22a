#include "experiments/space_text.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "env/base/error.h"
#include "experiments/budget_options.h"
#include "experiments/command_line.h"
#include "experiments/folding.h"
#include "experiments/latency_options.h"

namespace espalier {
namespace {

using nlohmann::ordered_json;

constexpr size_t kFewGroups = 24;  // that many fit on a page: every one gets a line
constexpr size_t kPageWidth = 100;
constexpr size_t kPinExamples = 4;  // lines under one reason

std::string Counted(const std::string& noun, int64_t count) {
  return Str(WithCommas(count), ' ', noun, count == 1 ? "" : "s");
}

/// Rows of the group table: names, and what else stands in them.
struct GroupRows {
  std::vector<std::string> header, names;
  std::vector<std::vector<std::string>> cells;

  std::string Text(size_t name_width) const {
    TextTable table(header);
    for (size_t i = 0; i < names.size(); ++i) {
      std::vector<std::string> row = {Shortened(names[i], name_width)};
      row.insert(row.end(), cells[i].begin(), cells[i].end());
      table.Add(std::move(row));
    }
    return table.Text("  ");
  }
};

std::string GroupsText(const ordered_json& groups, bool all) {
  std::vector<std::string> names, rest;
  bool any_blocks = false, any_statistic = false;
  for (const auto& group : groups) {
    names.push_back(group["name"]);
    const bool blocks = group["blocks"] > 1, exact = group["exact"];
    any_blocks = any_blocks || blocks;
    any_statistic = any_statistic || !exact;
    rest.push_back(Str(group["kind"], group["units"], ' ', group["blocks"], ' ', exact));
  }
  const auto rows = FoldNames(names, rest, !all && names.size() > kFewGroups);
  const bool folded = rows.size() < names.size();
  GroupRows table;
  table.header = {"group"};
  if (folded) table.header.push_back("");
  table.header.insert(table.header.end(), {"kind", "units"});
  if (any_blocks) table.header.push_back("blocks");
  table.header.insert(table.header.end(), {"axes", "MACs", "params"});
  for (const auto& row : rows) {
    const auto& first = groups[row[0]];
    std::vector<std::string> merged;
    double macs = 0, params = 0;
    std::vector<int64_t> axes;
    for (const size_t i : row) {
      merged.push_back(names[i]);
      axes.push_back(static_cast<int64_t>(groups[i]["members"].size()));
      macs += groups[i]["governs"]["macs"].get<double>();
      params += groups[i]["governs"]["params"].get<double>();
    }
    const auto [least, most] = std::minmax_element(axes.begin(), axes.end());
    std::vector<std::string> cells;
    if (folded) cells.push_back(row.size() > 1 ? Str("x ", row.size()) : "");
    cells.push_back(first["kind"].get<std::string>() + (first["exact"] ? "" : " *"));
    cells.push_back(first["units"].dump());
    if (any_blocks) cells.push_back(first["blocks"].dump());
    cells.push_back(*least == *most ? Str(*least) : Str(*least, '-', *most));
    cells.push_back(Millions(macs));
    cells.push_back(Millions(params));
    table.names.push_back(MergedName(merged));
    table.cells.push_back(std::move(cells));
  }
  std::string text = table.Text(kPageWidth);
  if (const size_t width = TextWidth(text); !all && width > kPageWidth) {
    size_t longest = 0;
    for (const auto& name : table.names) longest = std::max(longest, TextWidth(name));
    const size_t surplus = width - kPageWidth;
    text = table.Text(std::max<size_t>(20, std::min(longest, kPageWidth) - surplus));
  }
  std::string note =
      "axes: how many axes of stored tensors a unit is cut from; MACs, params: what "
      "the group governs, all its units against the fewest that may stay";
  if (folded) note += ", summed over the groups of a line (--all: a line a group)";
  if (any_blocks) note += "; blocks: as many units stay in each";
  if (any_statistic) note += "; *: a statistic such as layer norm's runs over these units";
  return text + Wrapped(note + ".", "  ");
}

/// "fc.weight axis 0 (1,000)", told once for parameters that differ in numbers only.
std::vector<std::string> PinnedAxes(const ordered_json& pinned, const std::vector<size_t>& which,
                                    bool all) {
  std::vector<std::string> names, rest;
  for (const size_t i : which) {
    names.push_back(pinned[i]["parameter"]);
    rest.push_back(
        Str(" axis ", pinned[i]["axis"], ": ", Counted("coordinate", pinned[i]["count"])));
  }
  std::vector<std::string> lines;
  for (const auto& row : FoldNames(names, rest, !all)) {
    std::vector<std::string> merged;
    for (const size_t i : row) merged.push_back(names[i]);
    const std::string name = MergedName(merged);
    const std::string tail = rest[row[0]] + (row.size() > 1 ? " each" : "");
    lines.push_back((all ? name : Shortened(name, kPageWidth - 6 - tail.size())) + tail);
  }
  return lines;
}

std::string ConventionsText(const ordered_json& cost) {
  TextTable table({"convention", "MACs", "", "params", "", "at least"});
  for (const auto& [name, value] : cost.items()) {
    if (!value.is_object()) continue;
    const int64_t macs = value["macs"], params = value["params"];
    table.Add({name, Millions(static_cast<double>(macs)), WithCommas(macs),
               Millions(static_cast<double>(params)), WithCommas(params),
               Str(Millions(value["least_macs"]), " MACs, ", Millions(value["least_params"]),
                   " params")});
  }
  const int64_t bytes = cost["activation_bytes"];
  return table.Text("  ") + Str("  activations at batch 1: ", WithCommas(bytes), " bytes (",
                                Fixed(static_cast<double>(bytes) / (1 << 20), 1), " MiB)\n");
}

std::string UncountedText(const ordered_json& uncounted, bool all) {
  if (uncounted.empty()) return "";
  std::vector<std::string> names = uncounted.get<std::vector<std::string>>();
  std::string text = "\noperators that no convention counts:\n";
  for (const auto& row : FoldNames(names, std::vector<std::string>(names.size()), !all)) {
    std::vector<std::string> merged;
    for (const size_t i : row) merged.push_back(names[i]);
    text += Wrapped(MergedName(merged), "  ");
  }
  return text;
}

}  // namespace

std::string PinsText(const ordered_json& pinned, bool all) {
  std::vector<std::string> reasons;
  for (const auto& pin : pinned) reasons.push_back(pin["reason"]);
  std::string text;
  for (const auto& row : FoldNames(reasons, std::vector<std::string>(reasons.size()), true)) {
    std::vector<std::string> merged;
    int64_t coordinates = 0;
    for (const size_t i : row) {
      merged.push_back(reasons[i]);
      coordinates += pinned[i]["count"].get<int64_t>();
    }
    text +=
        Wrapped(Str(MergedName(merged), " (", row.size(), row.size() == 1 ? " axis, " : " axes, ",
                    Counted("coordinate", coordinates), ")"),
                "  ");
    const auto lines = PinnedAxes(pinned, row, all);
    const size_t shown = all ? lines.size() : std::min(lines.size(), kPinExamples);
    for (size_t i = 0; i < shown; ++i) text += "      " + lines[i] + '\n';
    if (shown < lines.size())
      text += Str("      and ", lines.size() - shown, " more lines (--all)\n");
  }
  return text;
}

std::string SpaceText(const ordered_json& space, bool all) {
  int64_t pinned = 0;
  for (const auto& pin : space["pinned"]) pinned += pin["count"].get<int64_t>();
  std::string text = Str(space["network"].get<std::string>(), ": ",
                         Counted("group", static_cast<int64_t>(space["groups"].size())), ", ",
                         Counted("unit", space["units"]), " can be removed, ",
                         Counted("coordinate", pinned), pinned == 1 ? " is" : " are", " pinned\n");
  if (!space["groups"].empty()) text += '\n' + GroupsText(space["groups"], all);
  if (!space["pinned"].empty())
    text += "\npinned, under what forbids it:\n" + PinsText(space["pinned"], all);
  text += "\ncost:\n" + ConventionsText(space["cost"]) + UncountedText(space["uncounted"], all);
  if (!space.contains("reach")) return text;
  if (space.contains("latency")) text += "\nlatency:\n" + LatencyText(space["latency"], all);
  return text +
         Str("\nwhat can be reached, MACs as '", space["convention"].get<std::string>(),
             "' counts them:\n") +
         ReachText(space["reach"]);
}

}  // namespace espalier

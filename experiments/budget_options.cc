#include "experiments/budget_options.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "env/base/error.h"

namespace espalier {

using nlohmann::ordered_json;

void AddBudgetOptions(OptionList& add) {
  add.Text("macs", "BOUND", "", "0.5 is a fraction of the uncut network, 55.84M an amount");
  add.Text("params", "BOUND", "", "bound on parameters");
  add.Text("activation-bytes", "BOUND", "", "bound on the bytes of all activations, batch 1");
  add.Text("latency-ms", "BOUND", "", "bound on the measured time of a forward: 0.7, or 3.5ms");
  add.Text("convention", "NAME", "canonical", "how MACs are counted: canonical, thop, autobot");
  add.Integer("round-to", "N", 1, "kept counts are multiples of this");
  add.Real("min-keep", "RATIO", 0, "least keep ratio of a group");
  add.Real("max-keep", "RATIO", 1, "largest keep ratio of a group");
  add.List("keep", "PATTERN:LOW..HIGH", "keep ratios of groups by name: 'layer3.*: 0.25..0.9'");
}

BudgetConfig ReadBudgetOptions(const Arguments& arguments) {
  BudgetConfig budget;
  const auto quantity = [&](const std::string& option) -> std::optional<Quantity> {
    if (!arguments.Has(option)) return std::nullopt;
    const std::string& text = arguments.Text(option);
    if (text.ends_with("ms") && !option.ends_with("-ms"))
      throw Error(ErrorKind::kUsage, Str("--", option, ": '", text, "' is a time"),
                  "--latency-ms bounds the time of a forward");
    try {
      return ParseQuantity(text);
    } catch (const Error& error) {
      throw Error(ErrorKind::kUsage, Str("--", option, ": ", error.message()), error.hint());
    }
  };
  const auto ratio = [&](const std::string& option, bool zero) {
    const double value = arguments.Real(option);
    if (!(value >= 0 && value <= 1 && (zero || value > 0)))
      throw Error(ErrorKind::kUsage,
                  Str("--", option, " must be in ", zero ? "[" : "(", "0, 1], is ", value));
    return value;
  };
  budget.macs = quantity("macs");
  budget.params = quantity("params");
  budget.activation_bytes = quantity("activation-bytes");
  budget.latency_ms = quantity("latency-ms");
  budget.convention = arguments.Text("convention");
  budget.round_to = arguments.Integer("round-to");
  budget.min_keep = ratio("min-keep", true);
  budget.max_keep = ratio("max-keep", false);
  budget.keep = arguments.List("keep");
  if (budget.round_to < 1 || budget.round_to > 1024)
    throw Error(ErrorKind::kUsage, "--round-to must be in [1, 1024]");
  ParseConvention(budget.convention);
  return budget;
}

bool HasBounds(const BudgetConfig& config) {
  return std::ranges::any_of(kCostKinds,
                             [&](CostKind kind) { return config.bound(kind).has_value(); });
}

ordered_json ReachToJson(const CostModel& cost, const BudgetConfig& config) {
  ordered_json rows = ordered_json::array();
  for (const Reach& reach : ReachOf(cost, config)) {
    const auto amount = [&](double value) -> ordered_json {
      if (reach.kind == CostKind::kLatency) return value;
      return std::llround(value);
    };
    ordered_json row = {{"kind", CostName(reach.kind)},
                        {"least", amount(reach.least)},
                        {"most", amount(reach.most)},
                        {"full", amount(reach.full)}};
    if (reach.asked) {
      row["asked"] = ToString(*reach.asked);
      row["limit"] = amount(reach.limit);
      row["met"] = reach.met();
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

std::string CostTitle(const std::string& kind) {
  static const std::map<std::string, std::string> kTitles = {
      {"macs", "MACs"},
      {"params", "parameters"},
      {"activation_bytes", "activation bytes"},
      {"latency_ms", "latency"}};
  return kTitles.at(kind);
}

std::string CostText(const std::string& kind, double amount) {
  if (kind != "latency_ms") return Millions(amount);
  return Fixed(amount, amount < 1 ? 3 : amount < 100 ? 2 : 1) + " ms";
}

std::string ReachText(const ordered_json& reach) {
  TextTable table({"cost", "at least", "", "at most", "uncut", "bound", ""});
  for (const auto& row : reach) {
    const std::string kind = row["kind"];
    const double least = row["least"], full = row["full"];
    std::vector<std::string> cells = {CostTitle(kind), CostText(kind, least),
                                      Percent(full > 0 ? least / full : 0, 1),
                                      CostText(kind, row["most"]), CostText(kind, full)};
    if (row.contains("asked"))
      cells.insert(cells.end(), {CostText(kind, row["limit"]),
                                 row["met"].get<bool>() ? "can be met" : "CANNOT be met"});
    else
      cells.insert(cells.end(), {"", ""});
    table.Add(cells);
  }
  return table.Text("  ");
}

}  // namespace espalier

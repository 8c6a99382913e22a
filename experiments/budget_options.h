#pragma once

#include <nlohmann/json_fwd.hpp>

#include <string>

#include "env/cost/budget.h"
#include "experiments/command_line.h"

namespace espalier {

/// --macs, --params, --activation-bytes, --latency-ms, --convention, --round-to, --min-keep,
/// --max-keep and --keep.
void AddBudgetOptions(OptionList& add);
/// Errors: kUsage for what is no bound or out of range.
BudgetConfig ReadBudgetOptions(const Arguments& arguments);

/// Whether a cost is bounded at all.
bool HasBounds(const BudgetConfig& config);

/// [{"kind", "least", "most", "full"}], and for what is bounded "asked", "limit", "met".
nlohmann::ordered_json ReachToJson(const CostModel& cost, const BudgetConfig& config);
/// The same as a table, a line a cost.
std::string ReachText(const nlohmann::ordered_json& reach);

/// "12.3 M" of a count, "0.82 ms" of latency.
std::string CostText(const std::string& kind, double amount);
/// "MACs", "parameters", "activation bytes", "latency".
std::string CostTitle(const std::string& kind);

}  // namespace espalier

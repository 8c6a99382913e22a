#pragma once

#include <nlohmann/json_fwd.hpp>

#include <string>

namespace espalier {

/// The chapter on the plans that the strategy `front` made for several budgets: what each costs and
/// what it is expected to measure, as a table and over the MACs. Empty for other strategies.
/// search: the result of the searching stage. uncut_macs: before the cut.
std::string FrontSection(const nlohmann::ordered_json& search, double uncut_macs);

/// The chapter on what a search found at which cost, where it found three points or more of which
/// none beats another in figure and MACs. Empty otherwise.
std::string TradeOffSection(const nlohmann::ordered_json& search, double uncut_macs);

}  // namespace espalier

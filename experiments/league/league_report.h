#pragma once

#include <nlohmann/json_fwd.hpp>

#include <filesystem>
#include <string>

namespace espalier {

/// The page of a league (league.json): for each budget who won, by how much and whether that
/// exceeds chance, a table, and the best value so far over the evaluations. Self-contained, as a
/// run's.
void WriteLeagueReport(const std::filesystem::path& file, const nlohmann::ordered_json& league);

/// The same as text for a terminal.
std::string LeagueText(const nlohmann::ordered_json& league);

}  // namespace espalier

#pragma once

#include <nlohmann/json.hpp>

#include <filesystem>
#include <string>

namespace espalier {

/// The curves of a run folder as cards: what the search and the refinement reported, the histogram
/// of scores of the search stage, accuracy and loss of fine-tuning. Empty when nothing was reported
/// yet.
std::string CurveCharts(const std::filesystem::path& folder, const nlohmann::ordered_json& search);

}  // namespace espalier

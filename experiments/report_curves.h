#pragma once

#include <nlohmann/json.hpp>

#include <filesystem>
#include <string>

namespace espalier {

/// The curves of a run folder as cards: sparsity training and how it moved the units' norms, what
/// the search and the refinement reported, the histogram of scores, fine-tuning. sparsify, search:
/// results of these stages, or none. Empty when nothing was reported yet.
std::string CurveCharts(const std::filesystem::path& folder, const nlohmann::ordered_json& sparsify,
                        const nlohmann::ordered_json& search);

}  // namespace espalier

#pragma once

#include <nlohmann/json.hpp>

#include <filesystem>
#include <string>

#include "env/cost/cost.h"
#include "env/space/space.h"

namespace espalier {

/// {"groups": [{"name", "kind", "units", "members": [...]}], "pinned": [{"parameter", "axis",
/// "count", "reason"}], "cost": {"canonical": {"macs", "params"}, ..., "activation_bytes"},
/// "uncounted": [...]}: what `inspect --json` prints.
nlohmann::ordered_json SpaceToJson(const Space& space, const CostModel& cost);

const char* RoleName(MemberRole role);

/// The op graph in Graphviz's language: operators with their parameters' groups as colours.
std::string SpaceToDot(const Space& space);

/// Writes the drawing; .svg, .png and .pdf are rendered by `dot`.
/// Errors: kIo when `dot` is absent or fails; kUsage for another ending than these and .dot.
void WriteGraph(const Space& space, const std::filesystem::path& file);

}  // namespace espalier

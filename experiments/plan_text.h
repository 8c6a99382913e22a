#pragma once

#include <nlohmann/json.hpp>

#include <filesystem>
#include <string>

#include "env/space/certificate.h"
#include "env/space/plan.h"
#include "env/space/space.h"

namespace espalier {

/// What a plan does, before it is done: {"groups": [{"name", "kind", "units", "kept",
/// "removed"}], "parameters": [{"name", "from", "to"}], "edits": [...], "branches": [nodes],
/// "removed": [names], "renumbered": [names],
/// "pinned": [...]}. kept is a count, removed lists units; parameters are whole shapes; edits as in
/// plan.json.
nlohmann::ordered_json PlanEffects(const Space& space, const Plan& plan);

/// The same for people, at most 100 columns. all = false tells names that differ in numbers only
/// as one and leaves out which units go.
std::string PlanEffectsText(const nlohmann::ordered_json& effects, bool all);

/// Cost before and after, from CostTable's JSON, under one convention.
std::string CostChangeText(const nlohmann::ordered_json& cost, const std::string& convention);

/// What DeliverCut added to a command's JSON.
std::string DeliveredText(const nlohmann::ordered_json& json);

}  // namespace espalier

#pragma once

#include <nlohmann/json_fwd.hpp>

#include <string>

namespace espalier {

/// What SpaceToJson says, for people: at most 100 columns. all = false tells names that differ in
/// numbers only as one and shortens lists.
std::string SpaceText(const nlohmann::ordered_json& space, bool all);

/// The pinned axes under their reasons; "" when nothing is pinned.
std::string PinsText(const nlohmann::ordered_json& pinned, bool all);

}  // namespace espalier

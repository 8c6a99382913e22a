#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace espalier {

/// JSON of a file nobody vouches for: duplicate keys and nesting beyond `max_depth` are refused.
/// Errors   kModel with the byte offset inside `text`.
nlohmann::json ParseCheckedJson(std::string_view text, int max_depth);

}  // namespace espalier

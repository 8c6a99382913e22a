#pragma once

#include <string_view>

namespace espalier {

/// `*` stands for any text, also none; everything else is literal.
bool MatchesPattern(std::string_view text, std::string_view pattern);

}  // namespace espalier

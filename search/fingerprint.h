#pragma once

#include <string>

#include "search/strategy.h"

namespace espalier {

/// What a saved search belongs to: its own `settings`, the seed, weights, groups and bounds.
/// SHA-256 in hex; equal when the search may be continued.
std::string SearchFingerprint(const std::string& settings, const Environment& environment,
                              const SearchContext& context);

}  // namespace espalier

#pragma once

#include <vector>

#include "search/search_loop.h"

namespace espalier {

/// What every search evaluates before it asks its proposer: the uniform ratio, the points
/// config.enqueue gives, the best candidates of config.warm_start: distinct ones, those seen on
/// most samples first.
///
/// Errors   kConfig for points that do not fit the network; kIo, kData of the other search's file.
std::vector<Proposal> FirstPoints(const SearchLoopConfig& config, size_t groups);

}  // namespace espalier

#pragma once

#include "env/graph/network.h"
#include "env/space/space.h"

namespace espalier {

/// The network that computes at the uncut width what a cut one computes: every read of a unit that
/// `mask` removes is multiplied by zero, and statistics over units (layer norm, group norm, RMS
/// norm, mean over channels) are those of the units it keeps. Values keep their numbers.
/// mask: [total_units] 0/1, effective.
///
/// Errors   kModel for an op that takes a statistic in a way this does not know.
Network MaskedReference(const Space& space, const std::vector<uint8_t>& mask);

}  // namespace espalier

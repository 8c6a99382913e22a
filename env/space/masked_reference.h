#pragma once

#include "env/graph/network.h"
#include "env/space/space.h"

namespace espalier {

/// The network whose statistics over units (layer norm, group norm, RMS norm, mean over channels)
/// are those of the units that `mask` keeps: what a cut network computes there, at the uncut width.
/// mask: [total_units] 0/1, effective. Reads are not masked: ReadGates does that.
///
/// Errors   kModel for an op that takes a statistic in a way this does not know.
Network MaskedReference(const Space& space, const std::vector<uint8_t>& mask);

}  // namespace espalier

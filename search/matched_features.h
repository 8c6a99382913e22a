#pragma once

#include <vector>

#include "env/space/plan.h"
#include "env/space/space.h"
#include "env/task/feature.h"

namespace espalier {

/// Where a cut network can be compared with the uncut one, beside its outputs: what residual
/// additions make, or, in a network without any, what each layer reads. In the order of the graph.
/// Left out: outputs of the network, what goes with a removed branch, and values of which every
/// block of a grouped convolution keeps its own coordinates.
///
/// Source   block outputs as features: Kurtic et al., SquareHead, arXiv:2310.06927; Kim et al.,
///          BK-SDM, arXiv:2305.15798.
/// Deviates Channels that were cut are left out of the comparison; the papers keep the width.
/// Errors   kModel when there is nothing to compare; internal when the selection is not of this
///          Space.
std::vector<Feature> MatchedFeatures(const Space& space, const Selection& selection);

}  // namespace espalier

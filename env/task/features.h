#pragma once

#include <utility>
#include <vector>

#include "env/graph/network.h"
#include "env/space/plan.h"
#include "env/space/space.h"

namespace espalier {

/// A value inside the uncut network and inside a cut of it, whose graph has the same ops.
struct Feature {
  ValueId value = kNoValue;
  /// Axis -> its coordinates that the cut left, [kept] int64, ascending; axes that are whole are
  /// not listed.
  std::vector<std::pair<int64_t, Tensor>> kept{};

  /// What of the uncut network's value the cut one still has. Errors: kModel when it has not those
  /// sizes.
  Tensor Matching(const Tensor& uncut) const;
};

/// Where a cut network can be compared with the uncut one, beside its outputs: what residual
/// additions make, or, in a network without any, what each layer reads. In the order of the graph.
/// Left out: outputs of the network, and values of which every block of a grouped convolution keeps
/// its own coordinates.
///
/// Source   block outputs as features: Kurtic et al., SquareHead, arXiv:2310.06927; Kim et al.,
///          BK-SDM, arXiv:2305.15798.
/// Deviates Channels that were cut are left out of the comparison; the papers keep the width.
std::vector<Feature> MatchedFeatures(const Space& space, const Selection& selection);

}  // namespace espalier

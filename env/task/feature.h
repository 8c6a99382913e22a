#pragma once

#include <utility>
#include <vector>

#include "env/base/tensor.h"
#include "env/graph/network.h"

namespace espalier {

/// A value inside the uncut network and, under the same id, inside a cut of it.
struct Feature {
  ValueId value = kNoValue;
  /// Axis -> its coordinates that the cut left, [kept] int64, ascending; axes that are whole are
  /// not listed.
  std::vector<std::pair<int64_t, Tensor>> kept{};

  /// What of the uncut network's value the cut one still has. Errors: kModel when it has not those
  /// sizes.
  Tensor Matching(const Tensor& uncut) const;
};

}  // namespace espalier

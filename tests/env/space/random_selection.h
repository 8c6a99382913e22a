#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "env/base/rng.h"
#include "env/space/plan.h"

namespace espalier {

/// Random units of every group, as many as `count` says for the group, equal per block.
template <typename Count>
Selection SelectAtRandom(const Space& space, uint64_t seed, Count count) {
  Rng rng(seed, 0, "selection");
  std::vector<std::vector<double>> scores;
  std::vector<int64_t> counts;
  for (const Group& group : space.groups()) {
    scores.emplace_back();
    for (int64_t u = 0; u < group.units; ++u) scores.back().push_back(rng.Uniform());
    counts.push_back(count(group, rng));
  }
  return SelectTop(space, scores, counts);
}

/// Any number of units of every group.
inline Selection RandomSelection(const Space& space, uint64_t seed) {
  return SelectAtRandom(space, seed, [](const Group& group, Rng& rng) {
    if (group.least == 0) return static_cast<int64_t>(rng.Index(2));
    const int64_t run = group.units / group.blocks;
    const auto any = 1 + static_cast<int64_t>(rng.Index(static_cast<uint64_t>(run)));
    return group.Keepable(group.blocks * any);
  });
}

/// Half of the units of every group, at least one a block; every second branch on average.
inline Selection RandomHalf(const Space& space, uint64_t seed) {
  return SelectAtRandom(space, seed, [](const Group& group, Rng& rng) {
    if (group.least == 0) return static_cast<int64_t>(rng.Index(2));
    return group.Keepable(group.units / 2);
  });
}

}  // namespace espalier

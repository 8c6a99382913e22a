#pragma once

#include <vector>

#include "criteria/scope.h"
#include "env/base/rng.h"

namespace espalier {

/// An order of all units, the lowest scale_g * score + shift_g first, and what cutting it at every
/// budget was worth.
struct FrontOrder {
  std::vector<double> scale, shift;  ///< [groups]: of the scores
  std::vector<double> values{};      ///< [budgets], larger = better
  double fitness() const;            ///< their mean
  Scores Of(const Scores& scores) const;
};

/// Scores as they are.
FrontOrder PlainOrder(size_t groups);
/// Mean 0 and deviation 1 in every group: keeps about as large a share of each.
FrontOrder LevelOrder(const Scores& scores);
/// The largest score of every group 1. Scores are positive.
FrontOrder EqualTopOrder(const Scores& scores);

struct Mutation {
  double share = 0.1;   ///< of the groups changes, at least one
  double sigma = 1.0;   ///< of the logarithm of a changed scale
  bool shifts = false;  ///< adds a normal number of deviations of all the parent's units, too
};
FrontOrder Mutated(const FrontOrder& parent, const Scores& scores, const Mutation& mutation,
                   Rng& rng);

}  // namespace espalier

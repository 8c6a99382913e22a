#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "criteria/scope.h"
#include "env/cost/budget.h"
#include "env/eval/candidate_evaluator.h"

namespace espalier {

// An order of all units from what cutting each group alone does, without looking at units' scores.
//
// Source   the loss of a cut is taken to be sum over groups of damage_g (r_g / probed_g)^2 with r_g
//          the share of the group that goes: the quadratic prior of Frantar, Alistarh, "SPDY:
//          Accurate Pruning with Speedup Guarantees", ICML 2022, arXiv:2201.13096, section 3.2,
//          with its sensitivities measured once, not searched. The least loss at every cost is then
//          reached by removing units in the order of loss a unit adds per cost it saves.

/// A cut of one group alone.
struct Probe {
  size_t group = 0;
  std::vector<int64_t> counts{};  ///< [groups] kept units
  double removed = 0;             ///< share of the group's units
};

/// At most `most` probes, of the groups that cost most, each cut to half, or as near to it as width
/// limits allow; none of a group that limits pin.
/// units: [groups]; unit_costs: [groups] as from UnitCosts.
std::vector<Probe> ProbesOf(const Budget& budget, const std::vector<int64_t>& units,
                            std::span<const double> unit_costs, int64_t most);

/// What each probe loses of the uncut network's figure (of the best probe's, where that failed), at
/// least one standard error of it; one that fails loses as much as the worst of the others.
/// ranks: [groups][units], says which units a probe keeps.
std::vector<double> DamageOf(const std::vector<Probe>& probes, const Space& space,
                             const Scores& ranks, CandidateEvaluator& evaluator);

/// The k-th of a group's n units to go (k from 1) adds damage / (removed n)^2 (2 k - 1), divided by
/// its cost; units that save nothing go last. Groups without a probe are taken to be as sensitive
/// as the median of the others. damage: [probes], > 0. Returns [groups][units], ascending.
Scores MarginalScores(const std::vector<Probe>& probes, std::span<const double> damage,
                      const std::vector<int64_t>& units, std::span<const double> unit_costs);

}  // namespace espalier

#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "env/cost/budget.h"
#include "env/space/plan.h"
#include "env/space/space.h"

namespace espalier {

/// Which units are ranked together, and with what score.
///   local            each group for itself: the same ratio everywhere
///   global           all units together
///   global_per_cost  all units together, each score divided by what removing the unit saves
///   isomorphic       groups of equal structure together, the same ratio in every class
///   entropy_softmax  ratios from the groups' mean scores by a softmax, mean ratio kept
///
/// Source   local, global: arXiv:2301.12900; isomorphic: Fang et al., "Isomorphic Pruning for
/// Vision
///          Models", arXiv:2407.04616; entropy_softmax: arXiv:2408.09632.
enum class Scope { kLocal, kGlobal, kGlobalPerCost, kIsomorphic, kEntropySoftmax };
inline const std::vector<std::string> kScopeNames = {"local", "global", "global_per_cost",
                                                     "isomorphic", "entropy_softmax"};
Scope ParseScope(const std::string& name);  ///< kConfig with choices

/// [groups][units], larger = keep.
using Scores = std::vector<std::vector<double>>;

/// Units kept in each group when every class keeps its best floor(share * units) units, at least
/// one in each group. classes: [groups]; groups of one number are ranked together. Ties go to the
/// lower group, then the lower unit, so that the number is exact.
std::vector<int64_t> CountsAtShare(const Scores& scores, const std::vector<int64_t>& classes,
                                   double share);

/// removed_g = groups * mean * softmax(-score / epsilon)_g, none above most[g]: what is above is
/// spread over the others in proportion. The mean stays, as far as `most` allows.
/// Source: arXiv:2408.09632: maximises sum of s (1 - phi) plus epsilon times the entropy.
std::vector<double> EntropyShares(std::span<const double> scores, double mean_removed,
                                  double epsilon, std::span<const double> most);

/// What each group's units cost: the exact change of cost when one more unit goes from a network
/// of `counts` units (empty: of the uncut one), as a share of its cost, added up over the budget's
/// bounds (of MACs without bounds). [groups]; 0 where no unit is left.
std::vector<double> UnitCosts(const CostModel& cost, const Budget& budget,
                              const std::vector<int64_t>& counts = {});

/// One number a group: equal when the operators that carry the group's units form the same graph.
/// Widths and kernel sizes do not count; grouped and depthwise convolutions differ from dense ones.
///
/// Source   arXiv:2407.04616 (key of a group: the types and sides its dependencies join);
///          Weisfeiler, Lehman, 1968 (colour refinement).
/// Deviates Colour refinement over the group's operators instead of the list of edges in the order
///          of a walk, which depends on where the walk starts.
std::vector<uint64_t> GroupSignatures(const Space& space);

struct ScopeConfig {
  std::string scope = "global_per_cost";
  std::string normaliser = "none";  ///< applied to each group's scores first
  double sentinel_quantile = 0.5;   ///< of the sentinel normaliser; in [0, 1]
  double epsilon = 0.1;             ///< of entropy_softmax, in units of the normalised scores; > 0
  /// Residual branches ([space] depth) at either end of the network that stay whatever their score.
  /// arXiv:2402.02834 protects 4 and 2 blocks: scores can call the fatal first block the least
  /// important one. A transformer's block has two branches.
  int64_t protect_first = 0, protect_last = 0;
};
void AddScopeFields(Schema& schema, ScopeConfig& config);

/// Kept units of each group under a budget: the largest share that holds every bound, found by
/// bisection with the exact cost model; Budget::Project fills what rounding leaves. scores: of the
/// units that are left, where some of a group went before.
/// Errors: kConfig for an unknown scope or normaliser, and for more protected branches than there
/// are; kBudget when it cannot be met without one of them.
struct Ranking {
  std::vector<int64_t> kept;  ///< [groups]
  double share = 1;           ///< of the ranking, before the last repair
  int64_t classes = 1;        ///< sets of groups that were ranked together
};
Ranking RankUnderBudget(const Space& space, const CostModel& cost, const Budget& budget,
                        const Scores& scores, const ScopeConfig& config);

}  // namespace espalier

#pragma once

#include <cstdint>
#include <string>

#include "criteria/scope.h"
#include "search/strategy.h"
#include "search/unit_scores.h"

namespace espalier {

struct RankingConfig {
  /// Any registered criterion, with options: "taylor(mode=vector)".
  std::string criterion = "taylor";
  ScopeConfig scope{};              ///< which units are ranked together
  CalibrationConfig calibration{};  ///< images for criteria that need data
  int64_t steps = 1;                ///< towards the budget; what is left is scored anew before each
  std::string schedule = "linear";  ///< of the steps: linear, cubic, cosine or exponential
  bool turn_values = false;  ///< attention values to singular directions first (value_basis.h)
  bool compensate = false;   ///< consumers move what they lose to what they keep
  double ridge = 1e-3;       ///< of the compensation, relative to the mean Gram diagonal; > 0
};
Schema Describe(RankingConfig& config);

/// One ranking of all units by a criterion, cut where the budget is met: the learning-free method
/// every search has to beat. Chooses widths as well as units, unless the scope is local.
///
/// In several steps the bounds fall to the budget bit by bit, and each step scores what the last
/// one left, on images of its own.
///
/// Source   the criterion's; scopes as in criteria/scope.h; steps: arXiv:2301.12900, and of the
///          schedules Zhu, Gupta, arXiv:1710.01878 (cubic).
/// Deviates Nothing is cut between steps: parameters of units that went are zeros (MaskStore), so a
///          statistic over units and distances between units count zeros.
/// Errors   kConfig for an unknown criterion, scope or normaliser, and without a [data] table when
///          the criterion needs data; kInterrupted between batches, nothing is kept.
/// Random   what the criterion draws; data order from the stream "ranking/calibration".
/// Cost     what the criterion needs, once a step: see its data sheet.
class RankingSearch final : public Strategy {
 public:
  explicit RankingSearch(const RankingConfig& config);
  SearchResult Run(const Environment& environment, SearchContext& context) const override;

 private:
  const RankingConfig config_;
};

}  // namespace espalier

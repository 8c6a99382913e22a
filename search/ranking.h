#pragma once

#include <cstdint>
#include <string>

#include "criteria/scope.h"
#include "criteria/statistics.h"
#include "search/strategy.h"

namespace espalier {

struct RankingConfig {
  /// Any registered criterion, with options: "taylor(mode=vector)".
  std::string criterion = "taylor";
  ScopeConfig scope{};       ///< which units are ranked together
  int64_t batches = 10;      ///< of training images, for criteria that need data
  int64_t batch_size = 128;  ///< images a batch
  int64_t samples = 256;     ///< of sample gradients, at most
  bool augment = false;      ///< training augmentation on the images used
  bool compensate = false;   ///< consumers move what they lose to what they keep
  double ridge = 1e-3;       ///< of the compensation, relative to the mean Gram diagonal; > 0
};
Schema Describe(RankingConfig& config);

/// One ranking of all units by a criterion, cut where the budget is met: the learning-free method
/// every search has to beat. Chooses widths as well as units, unless the scope is local.
///
/// Source   the criterion's; scopes as in criteria/scope.h.
/// Errors   kConfig for an unknown criterion, scope or normaliser, and without a [data] table when
///          the criterion needs data; kInterrupted between batches, nothing is kept.
/// Random   what the criterion draws; data order from the stream "ranking/data".
/// Cost     what the criterion needs: see its data sheet.
class RankingSearch final : public Strategy {
 public:
  explicit RankingSearch(const RankingConfig& config);
  SearchResult Run(const Environment& environment, SearchContext& context) const override;

 private:
  const RankingConfig config_;
};

/// Labelled training images of an environment as calibration batches, in the order of a stream.
/// Errors: kConfig without a [data] table.
Calibration CalibrationFrom(const Environment& environment, const SearchContext& context,
                            const std::string& who, int64_t batches, int64_t batch_size,
                            bool augment);

}  // namespace espalier

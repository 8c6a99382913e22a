#pragma once

#include <cstdint>
#include <string>

#include "criteria/criterion.h"
#include "criteria/scope.h"
#include "criteria/statistics.h"
#include "search/strategy.h"

namespace espalier {

/// Which training images criteria look at.
struct CalibrationConfig {
  int64_t batches = 10;
  int64_t batch_size = 128;  ///< images a batch
  int64_t samples = 256;     ///< of sample gradients, at most
  bool augment = false;      ///< training augmentation on the images used
};
void AddCalibrationFields(Schema& schema, CalibrationConfig& config);

/// Labelled training images of an environment as calibration batches, in the order of the stream
/// "WHO/calibration". Borrows both arguments. Errors: kConfig without a [data] table.
Calibration CalibrationFrom(const Environment& environment, const SearchContext& context,
                            const std::string& who, const CalibrationConfig& config);

/// Scores of all units of the uncut network by a criterion, NAME or NAME(key=value, ...), on
/// statistics that are collected when it, or `also`, needs some; with other `weights` when given.
/// Options that a criterion finds for itself (Criterion::Tuned) are reported to the context as
/// metrics of step 0.
///
/// Errors   kConfig for an unknown criterion, and without a [data] table when it needs data;
///          kInterrupted between batches.
/// Random   the stream "WHO/criterion".
struct UnitScores {
  Scores scores;          ///< [groups][units]
  Statistics statistics;  ///< empty when nothing was needed
};
UnitScores ScoreUnits(const std::string& criterion, const Environment& environment,
                      const SearchContext& context, const std::string& who,
                      const CalibrationConfig& config = {}, const Needs& also = {},
                      const ParameterStore* weights = nullptr);

}  // namespace espalier

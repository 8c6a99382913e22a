#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "env/base/rng.h"
#include "search/strategy.h"

namespace espalier {

struct Interval {
  double low = 0, high = 0;
};

/// Where a figure lies with 95 % probability when it is measured on endlessly many samples like
/// those of `score`. Contains the figure. Metrics in percent stay in 0..1.
///
/// Source   figure +- 1.96 standard errors; in percent E. B. Wilson, "Probable Inference, the Law
/// of
///          Succession, and Statistical Inference", JASA 22 (1927), with the number of yes-or-no
///          samples that would have this standard error: at 0 % and 100 %, where the former has no
///          length, it still says what so many samples can tell.
Interval ConfidenceInterval(const Score& score);

/// What a cut network is expected to measure, right after the cut or prepared: in the metric's own
/// units and direction.
struct Forecast {
  std::string cause{};  ///< why there is none: it broke, or is not finite
  double searched = 0;  ///< figure on the samples the search compared on
  double value = 0;     ///< on those it did not see; where too few are left, the same as searched
  std::optional<Interval> interval{};  ///< 95 %; none for samples that plans were chosen by
};

/// Splits the validation samples: some to search on, the others to judge what was found. Searching
/// picks what does well by chance, too; figures on other samples are free of that.
///
/// Random   which samples are searched on, so that both parts are fair samples of the whole (taking
///          classes in turns, as comparisons do, would leave the frequent ones behind).
/// Memory   a copy of both parts, as they are stored; forecasts: one batch at a time.
class Forecaster {
 public:
  /// samples: how many to search on, 0 = all; prepare: as CandidateOptions::prepare.
  Forecaster(const Environment& environment, int64_t samples, Rng rng,
             std::function<void(Network&, const Selection&)> prepare = {});

  const Dataset& searched() const { return searched_; }
  int64_t unseen() const { return unseen_.count(); }  ///< 0 when too few are left
  std::string Source() const;                         ///< in words: what Forecast::value comes from

  /// Cost     a forward of the cut network over all validation samples.
  Forecast Of(const Selection& selection) const;

 private:
  Forecast Judged(const Selection& selection) const;

  const Environment& env_;
  Dataset searched_, unseen_;
  std::function<void(Network&, const Selection&)> prepare_;
};

}  // namespace espalier

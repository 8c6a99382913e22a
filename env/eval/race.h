#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace espalier {

/// How candidates are compared on common samples, and when a loser may leave early.
struct RaceOptions {
  bool on = true;
  int64_t first = 500;  ///< samples before the first decision; then the number doubles
  int64_t keep = 1;     ///< this many best ones are what is wanted
  /// A candidate at least as good as the one it is compared with (the keep-th best so far) is
  /// dropped with no more than this probability, over all rounds and all candidates it may be
  /// compared with.
  double error = 0.05;
};

/// P-value of "candidate is at least as good as leader" from paired values on common samples.
///
/// Values of which every difference is -1, 0 or 1 (right or wrong): the exact one-sided sign test
/// on the samples on which they differ (McNemar). Else Student's t on the mean difference:
/// asymptotic, for 100 samples and more. leader, candidate: [samples], larger = better.
double WorsePValue(std::span<const float> leader, std::span<const float> candidate);

/// One decision. values[c]: what candidate c got on the samples seen so far, all equally many.
/// Returns the candidates to drop, ascending. The union bound over `rounds` decisions and the other
/// candidates keeps the error below options.error; candidates among the best `keep` stay.
std::vector<size_t> Losers(const std::vector<std::span<const float>>& values, int64_t rounds,
                           const RaceOptions& options);

/// Numbers of samples after which a decision falls: first, doubled, ..., all.
std::vector<int64_t> RaceRounds(int64_t samples, const RaceOptions& options);

}  // namespace espalier

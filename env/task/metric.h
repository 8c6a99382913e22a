#pragma once

#include <cstdint>
#include <string>

#include "env/base/registry.h"
#include "env/task/outcome.h"

namespace espalier {

struct MetricOptions {
  int64_t top_k = 5;       ///< top_k: classes that may hold the right one
  int64_t class_axis = 0;  ///< of comparisons with the uncut network: as AgainstUncut
};

/// What networks are compared by. A metric adds up a few numbers per sample and makes one figure of
/// the sums: right answers and positions for accuracy, log-likelihoods and tokens for perplexity,
/// intersections and unions for mean IoU. Keeps no state.
class Metric {
 public:
  virtual ~Metric() = default;
  /// What each sample adds. [B, K] float64, on the outputs' device, K the same for all batches.
  /// Errors   kData, kModel when outputs and targets do not fit it.
  virtual Tensor Statistics(const Outcome& outcome, const MetricOptions& options) const = 0;
  /// The figure of sums over samples: [K] -> [], differentiable, unchanged when all sums are
  /// scaled. Most metrics are a quotient of two.
  virtual Tensor Figure(const Tensor& sums) const { return sums[0] / sums[1]; }
};

/// More facts of registry entries.
inline constexpr const char* kLowerIsBetter = "lower is better";
inline constexpr const char* kPercent = "in percent";  ///< in 0..1, shown in percent

bool HasFact(const std::string& metric, const char* fact);

/// A metric near some mean statistics, to first order.
struct Tangent {
  double figure = 0;
  Tensor gradient;  ///< [K] float64, on CPU

  /// What samples with these statistics contribute. [N, K] -> [N] float64
  Tensor Of(const Tensor& statistics) const;
};
Tangent TangentAt(const Metric& metric, const Tensor& mean_statistics);

/// What each sample contributes to the figure: their mean is the figure, their spread over sqrt(N)
/// its standard error. For accuracy these are 1 and 0; in general the tangent at the mean, of which
/// each sample has its share. Two networks on the same samples are compared by the mean and
/// spread of the differences of their contributions. [N, K] -> [N] float64.
///
/// Source   the infinitesimal jackknife: Efron, Stein, Annals of Statistics 9 (1981).
Tensor Contributions(const Metric& metric, const Tensor& statistics);

/// A figure as it is reported.
struct Score {
  std::string metric = "accuracy";
  double value = 0;
  double standard_error = 0;  ///< over samples
  int64_t samples = 0;
  double seconds = 0;
  double loss = 0;  ///< mean of the task's loss
};
/// value, standard_error and samples of all statistics [N, K].
Score Summarize(const std::string& name, const Metric& metric, const Tensor& statistics);

}  // namespace espalier

#pragma once

#include <span>
#include <string>
#include <vector>

namespace espalier {

/// How the scores of one group are brought to a scale on which groups can be compared.
///   none             v
///   sum, mean, max   v / sum(v), v / mean(v), v / max(v)
///   standardization  (v - min) / (max - min + 1e-8); also written "standarization"
///   gaussian         (v - mean) / (std + 1e-8), unbiased std; also written "z_score"
///   sentinel         v / (k-th smallest + 1e-8), k = floor(quantile * n), at most n - 1, from 0
///   lamp             v_(i) / sum over j >= i of v_(j), ascending: the largest gets 1
/// A zero denominator gives zeros, never NaN.
///
/// Source   Lee et al., "Layer-adaptive Sparsity for the Magnitude-based Pruning", arXiv:2010.07611
///          (lamp); the rest are usual names.
enum class Normaliser { kNone, kSum, kMean, kMax, kStandardization, kGaussian, kSentinel, kLamp };
Normaliser ParseNormaliser(const std::string& name);  ///< kConfig with choices
/// Names as a config takes them, aliases included.
inline const std::vector<std::string> kNormaliserNames = {
    "none",     "sum",  "mean",           "max",    "standardization", "gaussian",
    "sentinel", "lamp", "standarization", "z_score"};

/// scores of one group -> the same number of values. Ties stay ties, except under lamp, where of
/// equal scores the later index counts as larger.
std::vector<double> Normalise(std::span<const double> scores, Normaliser normaliser,
                              double sentinel_quantile = 0.5);

}  // namespace espalier

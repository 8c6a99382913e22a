#include "criteria/normalise.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "env/base/error.h"

namespace espalier {
namespace {

constexpr double kTiny = 1e-8;  // of the definitions: keeps equal scores finite

double Sum(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}

std::vector<double> Lamp(std::span<const double> scores) {
  std::vector<size_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return scores[a] < scores[b]; });
  std::vector<double> result(scores.size(), 0);
  double rest = 0;
  for (auto at = order.rbegin(); at != order.rend(); ++at) {
    rest += scores[*at];
    if (rest > 0) result[*at] = scores[*at] / rest;
  }
  return result;
}

/// (v - shift) / denominator
std::vector<double> Affine(std::span<const double> scores, double shift, double denominator) {
  std::vector<double> result;
  for (const double score : scores)
    result.push_back(denominator == 0 ? 0 : (score - shift) / denominator);
  return result;
}

}  // namespace

Normaliser ParseNormaliser(const std::string& name) {
  if (name == "standarization") return Normaliser::kStandardization;
  if (name == "z_score") return Normaliser::kGaussian;
  for (size_t i = 0; i < kNormaliserNames.size(); ++i)
    if (kNormaliserNames[i] == name) return static_cast<Normaliser>(i);
  throw Error(ErrorKind::kConfig, Str("unknown normaliser '", name, "'"),
              SuggestName(name, kNormaliserNames));
}

std::vector<double> Normalise(std::span<const double> scores, Normaliser normaliser,
                              double sentinel_quantile) {
  if (scores.empty()) return {};
  const auto count = static_cast<double>(scores.size());
  const auto [least, most] = std::minmax_element(scores.begin(), scores.end());
  const double mean = Sum(scores) / count;
  switch (normaliser) {
    case Normaliser::kNone:
      return {scores.begin(), scores.end()};
    case Normaliser::kSum:
      return Affine(scores, 0, Sum(scores));
    case Normaliser::kMean:
      return Affine(scores, 0, mean);
    case Normaliser::kMax:
      return Affine(scores, 0, *most);
    case Normaliser::kStandardization:
      return Affine(scores, *least, *most - *least + kTiny);
    case Normaliser::kGaussian: {
      double square = 0;
      for (const double score : scores) square += (score - mean) * (score - mean);
      return Affine(scores, mean, std::sqrt(square / std::max(1.0, count - 1)) + kTiny);
    }
    case Normaliser::kSentinel: {
      std::vector<double> sorted(scores.begin(), scores.end());
      std::sort(sorted.begin(), sorted.end());
      const auto at = static_cast<size_t>(std::max(0.0, std::floor(sentinel_quantile * count)));
      const double sentinel = sorted[std::min(at, sorted.size() - 1)];
      return Affine(scores, 0, *most == 0 && *least == 0 ? 0 : sentinel + kTiny);
    }
    case Normaliser::kLamp:
      return Lamp(scores);
  }
  ESPALIER_CHECK(false, "unknown normaliser");
}

}  // namespace espalier

#include "env/eval/race.h"

#include <algorithm>
#include <boost/math/distributions/binomial.hpp>
#include <boost/math/distributions/students_t.hpp>
#include <cmath>
#include <numeric>

#include "env/base/error.h"

namespace espalier {

double WorsePValue(std::span<const float> leader, std::span<const float> candidate) {
  ESPALIER_CHECK(leader.size() == candidate.size() && !leader.empty(), leader.size(),
                 " values and ", candidate.size());
  int64_t wins = 0, losses = 0;  // of the leader
  bool signs_only = true;
  double sum = 0, squares = 0;
  for (size_t i = 0; i < leader.size(); ++i) {
    const double difference = static_cast<double>(leader[i]) - static_cast<double>(candidate[i]);
    wins += difference > 0;
    losses += difference < 0;
    signs_only = signs_only && (difference == 0 || std::abs(difference) == 1);
    sum += difference;
    squares += difference * difference;
  }
  if (sum <= 0) return 1;
  if (signs_only) {
    const boost::math::binomial_distribution<> even(static_cast<double>(wins + losses), 0.5);
    return boost::math::cdf(boost::math::complement(even, static_cast<double>(wins - 1)));
  }
  const auto n = static_cast<double>(leader.size());
  if (n < 2) return 1;
  const double variance = (squares - sum * sum / n) / (n - 1);
  if (variance <= 0) return 0;  // the same positive difference everywhere
  const boost::math::students_t_distribution<> student(n - 1);
  return boost::math::cdf(boost::math::complement(student, sum / std::sqrt(variance * n)));
}

std::vector<size_t> Losers(const std::vector<std::span<const float>>& values, int64_t rounds,
                           const RaceOptions& options) {
  const size_t count = values.size();
  const auto keep = static_cast<size_t>(std::max<int64_t>(options.keep, 1));
  if (!options.on || count <= keep) return {};
  std::vector<double> totals;
  for (const auto& value : values)
    totals.push_back(std::accumulate(value.begin(), value.end(), 0.0));
  std::vector<size_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return totals[a] > totals[b]; });
  const auto& reference = values[order[keep - 1]];
  const double level = options.error / static_cast<double>(rounds) / static_cast<double>(count - 1);
  std::vector<size_t> losers;
  for (size_t i = keep; i < count; ++i)
    if (WorsePValue(reference, values[order[i]]) <= level) losers.push_back(order[i]);
  std::sort(losers.begin(), losers.end());
  return losers;
}

std::vector<int64_t> RaceRounds(int64_t samples, const RaceOptions& options) {
  std::vector<int64_t> rounds;
  if (options.on)
    for (int64_t n = std::max<int64_t>(options.first, 1); n < samples; n *= 2) rounds.push_back(n);
  rounds.push_back(samples);
  return rounds;
}

}  // namespace espalier

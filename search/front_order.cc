#include "search/front_order.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace espalier {
namespace {

/// Mean and deviation.
struct Moments {
  double count = 0, sum = 0, squares = 0;
  void Add(double value) { ++count, sum += value, squares += value * value; }
  double mean() const { return sum / count; }
  double deviation() const { return std::sqrt(std::max(squares / count - mean() * mean(), 1e-30)); }
};

}  // namespace

double FrontOrder::fitness() const {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

Scores FrontOrder::Of(const Scores& scores) const {
  Scores mapped = scores;
  for (size_t g = 0; g < mapped.size(); ++g)
    for (double& score : mapped[g]) score = scale[g] * score + shift[g];
  return mapped;
}

FrontOrder PlainOrder(size_t groups) {
  return {std::vector<double>(groups, 1), std::vector<double>(groups, 0)};
}

FrontOrder LevelOrder(const Scores& scores) {
  FrontOrder order;
  for (const auto& group : scores) {
    Moments moments;
    for (const double score : group) moments.Add(score);
    order.scale.push_back(1 / moments.deviation());
    order.shift.push_back(-moments.mean() / moments.deviation());
  }
  return order;
}

FrontOrder EqualTopOrder(const Scores& scores) {
  FrontOrder order = PlainOrder(scores.size());
  for (size_t g = 0; g < scores.size(); ++g)
    order.scale[g] = 1 / *std::max_element(scores[g].begin(), scores[g].end());
  return order;
}

FrontOrder Mutated(const FrontOrder& parent, const Scores& scores, const Mutation& mutation,
                   Rng& rng) {
  FrontOrder child{parent.scale, parent.shift};
  Moments all;
  for (const auto& group : parent.Of(scores))
    for (const double score : group) all.Add(score);
  const auto changes =
      static_cast<size_t>(std::ceil(mutation.share * static_cast<double>(scores.size())));
  const std::vector<int64_t> groups = rng.Permutation(static_cast<int64_t>(scores.size()));
  for (size_t i = 0; i < std::min(changes, groups.size()); ++i) {
    const auto g = static_cast<size_t>(groups[i]);
    child.scale[g] *= std::exp(mutation.sigma * rng.Normal());
    if (mutation.shifts) child.shift[g] += all.deviation() * rng.Normal();
  }
  return child;
}

}  // namespace espalier

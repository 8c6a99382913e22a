#include "search/proposers/tpe.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "search/proposers/points.h"
#include "search/search_loop.h"

namespace espalier {

Schema Describe(TpeConfig& config) {
  Schema schema;
  schema.Add("start", &config.start, "random candidates at the start", {.low = 4});
  schema.Add("batch", &config.batch, "candidates proposed at a time", {.low = 1});
  schema.Add("good", &config.good, "share of the trials that counts as good; the paper: 0.15",
             RealRange{.low = 0, .high = 1, .open_low = true, .open_high = true});
  schema.Add("candidates", &config.candidates, "draws of which the best is proposed", {.low = 1});
  schema.Add("least", &config.least, "smallest ratio drawn at the start",
             RealRange{.low = 0, .high = 1, .open_low = true});
  return schema;
}

ParzenEstimator::ParzenEstimator(std::vector<double> points, double low, double high)
    : points_(std::move(points)), low_(low), high_(high) {
  double sum = 0, squares = 0;
  for (const double x : points_) {
    sum += x;
    squares += x * x;
  }
  const auto n = static_cast<double>(std::max<size_t>(points_.size(), 1));
  const double deviation = std::sqrt(std::max(0.0, squares / n - sum * sum / n / n));
  // Scott's rule, and never so narrow that a ratio is settled for good.
  width_ = std::max(1.06 * deviation * std::pow(n, -0.2), 0.05 * (high - low));
}

double ParzenEstimator::Draw(Rng& rng) const {
  const uint64_t kernel = rng.Index(points_.size() + 1);
  if (kernel == points_.size() || width_ <= 0) return rng.Uniform(low_, high_);
  constexpr int kTries = 100;
  for (int i = 0; i < kTries; ++i) {
    const double x = points_[kernel] + width_ * rng.Normal();
    if (x >= low_ && x <= high_) return x;
  }
  return std::clamp(points_[kernel], low_, high_);
}

double ParzenEstimator::LogDensity(double x) const {
  const auto below = [&](double at, double centre) {
    return 0.5 * std::erfc(-(at - centre) / width_ / std::numbers::sqrt2);
  };
  double density = high_ > low_ ? 1 / (high_ - low_) : 1;
  if (width_ > 0)
    for (const double centre : points_) {
      const double z = (x - centre) / width_;
      const double inside = std::max(below(high_, centre) - below(low_, centre), 1e-12);
      density += std::exp(-0.5 * z * z) / (width_ * std::sqrt(2 * std::numbers::pi)) / inside;
    }
  return std::log(density / static_cast<double>(points_.size() + 1));
}

std::vector<Proposal> Tpe::Ask(const SearchProblem& problem, Rng& rng) const {
  std::vector<Proposal> batch;
  if (static_cast<int64_t>(seen_.size()) < config_.start) {
    for (int64_t i = static_cast<int64_t>(seen_.size()); i < config_.start; ++i)
      batch.push_back({.decision = DrawPoint(problem, config_.least, rng)});
    return batch;
  }
  auto ranked = seen_;
  std::stable_sort(ranked.begin(), ranked.end(),
                   [](const auto& a, const auto& b) { return a.first > b.first; });
  const auto good = static_cast<size_t>(
      std::max(2.0, std::ceil(config_.good * static_cast<double>(ranked.size()))));
  std::vector<ParzenEstimator> better, worse;
  for (size_t g = 0; g < problem.groups(); ++g) {
    std::vector<double> above, below;
    for (size_t i = 0; i < ranked.size(); ++i)
      (i < good ? above : below).push_back(ranked[i].second[g]);
    better.emplace_back(std::move(above), problem.low[g], problem.high[g]);
    worse.emplace_back(std::move(below), problem.low[g], problem.high[g]);
  }
  for (int64_t i = 0; i < config_.batch; ++i) {
    Decision best;
    double most = -std::numeric_limits<double>::infinity();
    for (int64_t c = 0; c < config_.candidates; ++c) {
      Decision drawn;
      double gain = 0;
      for (size_t g = 0; g < problem.groups(); ++g) {
        drawn.push_back(better[g].Draw(rng));
        gain += better[g].LogDensity(drawn.back()) - worse[g].LogDensity(drawn.back());
      }
      if (gain > most) {
        most = gain;
        best = std::move(drawn);
      }
    }
    batch.push_back({.decision = std::move(best)});
  }
  return batch;
}

void Tpe::Tell(const SearchProblem& problem, std::span<const Trial> batch) {
  for (const Trial& trial : batch)
    if (!trial.failed) seen_.emplace_back(trial.value, problem.Point(trial));
}

ESPALIER_REGISTER_PROPOSER(Tpe, TpeConfig,
                           {.name = "tpe",
                            .summary = "draws ratios that good candidates have and others do not",
                            .source = "Bergstra et al., NIPS 2011, section 4",
                            .facts = {kNeedsData, "deterministic"}})

}  // namespace espalier

#include "search/proposers/gaussian_process.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "search/proposers/points.h"
#include "search/search_loop.h"

namespace espalier {

Schema Describe(GaussianProcessConfig& config) {
  Schema schema;
  schema.Add("start", &config.start, "random candidates at the start", {.low = 4});
  schema.Add("batch", &config.batch, "candidates proposed at a time", {.low = 1});
  schema.Add("candidates", &config.candidates, "random points that are compared", {.low = 1});
  schema.Add("local", &config.local, "points near the best trials that are compared", {.low = 0});
  schema.Add("least", &config.least, "smallest ratio drawn",
             RealRange{.low = 0, .high = 1, .open_low = true});
  return schema;
}

double GaussianProcess::Kernel(double distance) const {
  const double r = std::sqrt(5.0) * distance / length_;
  return (1 + r + r * r / 3) * std::exp(-r);
}

GaussianProcess::GaussianProcess(Eigen::MatrixXd points, const Eigen::VectorXd& values,
                                 const Eigen::VectorXd& noise)
    : points_(std::move(points)) {
  const Eigen::Index n = points_.rows();
  ESPALIER_CHECK(n >= 2 && values.size() == n && noise.size() == n, n, " points, ", values.size(),
                 " values");
  mean_ = values.mean();
  scale_ = std::sqrt(std::max((values.array() - mean_).square().mean(), 1e-12));
  const Eigen::VectorXd standard = (values.array() - mean_) / scale_;
  const Eigen::VectorXd variance = noise / (scale_ * scale_);
  const double span = std::sqrt(static_cast<double>(points_.cols()));
  log_likelihood_ = -std::numeric_limits<double>::infinity();
  double best_length = span;
  for (const double factor : {0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2}) {
    length_ = factor * span;
    Eigen::MatrixXd covariance(n, n);
    for (Eigen::Index i = 0; i < n; ++i)
      for (Eigen::Index j = 0; j <= i; ++j)
        covariance(i, j) = covariance(j, i) = Kernel((points_.row(i) - points_.row(j)).norm());
    covariance.diagonal().array() += variance.array() + 1e-6;
    const Eigen::LLT<Eigen::MatrixXd> factorised(covariance);
    if (factorised.info() != Eigen::Success) continue;
    const Eigen::VectorXd weights = factorised.solve(standard);
    const double log_determinant = 2 * factorised.matrixLLT().diagonal().array().log().sum();
    const double likelihood = -0.5 * standard.dot(weights) - 0.5 * log_determinant -
                              0.5 * static_cast<double>(n) * std::log(2 * std::numbers::pi);
    if (likelihood <= log_likelihood_) continue;
    log_likelihood_ = likelihood;
    best_length = length_;
    factor_ = factorised;
    weights_ = weights;
  }
  ESPALIER_CHECK(weights_.size() == n, "no length scale gives a positive definite covariance");
  length_ = best_length;
}

GaussianProcess::Prediction GaussianProcess::At(const Eigen::VectorXd& point) const {
  Eigen::VectorXd cross(points_.rows());
  for (Eigen::Index i = 0; i < points_.rows(); ++i)
    cross(i) = Kernel((points_.row(i).transpose() - point).norm());
  const double variance = 1 - cross.dot(factor_.solve(cross));
  return {.mean = mean_ + scale_ * cross.dot(weights_),
          .deviation = scale_ * std::sqrt(std::max(variance, 0.0))};
}

double ExpectedImprovement(double mean, double deviation, double best) {
  if (deviation <= 0) return std::max(0.0, mean - best);
  const double z = (mean - best) / deviation;
  const double density = std::exp(-0.5 * z * z) / std::sqrt(2 * std::numbers::pi);
  const double below = 0.5 * std::erfc(-z / std::numbers::sqrt2);
  return (mean - best) * below + deviation * density;
}

std::vector<Proposal> GaussianProcessProposer::Ask(const SearchProblem& problem, Rng& rng) const {
  std::vector<Proposal> batch;
  if (static_cast<int64_t>(seen_.size()) < config_.start) {
    for (int64_t i = static_cast<int64_t>(seen_.size()); i < config_.start; ++i)
      batch.push_back({.decision = DrawPoint(problem, config_.least, rng)});
    return batch;
  }
  std::vector<Seen> seen = seen_;
  std::vector<size_t> ranked(seen.size());
  for (size_t i = 0; i < ranked.size(); ++i) ranked[i] = i;
  std::stable_sort(ranked.begin(), ranked.end(),
                   [&](size_t a, size_t b) { return seen_[a].value > seen_[b].value; });
  // Points are compared where they would be evaluated: after projection.
  struct Candidate {
    Decision decision;
    Eigen::VectorXd point;
  };
  std::vector<Candidate> candidates;
  const auto add = [&](Decision decision) {
    const std::vector<int64_t> kept = problem.budget.Project(decision);
    const std::vector<double> point = problem.Point({.kept = kept});
    candidates.push_back(
        {std::move(decision),
         Eigen::Map<const Eigen::VectorXd>(point.data(), static_cast<Eigen::Index>(point.size()))});
  };
  for (int64_t i = 0; i < config_.candidates; ++i) add(DrawPoint(problem, config_.least, rng));
  constexpr size_t kParents = 5;
  for (int64_t i = 0; i < config_.local; ++i) {
    const Seen& parent = seen_[ranked[rng.Index(std::min(kParents, ranked.size()))]];
    constexpr double kChanges = 3, kSigma = 0.25;
    add(Perturb(problem, parent.point, DrawChanges(problem, kChanges, rng), kSigma, rng));
  }
  for (int64_t b = 0; b < config_.batch && !candidates.empty(); ++b) {
    const auto n = static_cast<Eigen::Index>(seen.size());
    Eigen::MatrixXd points(n, static_cast<Eigen::Index>(problem.groups()));
    Eigen::VectorXd values(n), noise(n);
    for (Eigen::Index i = 0; i < n; ++i) {
      const Seen& one = seen[static_cast<size_t>(i)];
      points.row(i) = Eigen::Map<const Eigen::RowVectorXd>(
          one.point.data(), static_cast<Eigen::Index>(one.point.size()));
      values(i) = one.value;
      noise(i) = one.noise;
    }
    const GaussianProcess process(std::move(points), values, noise);
    double incumbent = -std::numeric_limits<double>::infinity();  // noise-free: predicted
    for (size_t i = 0; i < std::min(kParents, ranked.size()); ++i) {
      const auto& point = seen_[ranked[i]].point;
      incumbent =
          std::max(incumbent, process
                                  .At(Eigen::Map<const Eigen::VectorXd>(
                                      point.data(), static_cast<Eigen::Index>(point.size())))
                                  .mean);
    }
    size_t best = 0;
    double most = -1, predicted = 0;
    for (size_t c = 0; c < candidates.size(); ++c) {
      const auto at = process.At(candidates[c].point);
      const double gain = ExpectedImprovement(at.mean, at.deviation, incumbent);
      if (gain > most) {
        most = gain;
        best = c;
        predicted = at.mean;
      }
    }
    const Eigen::VectorXd& point = candidates[best].point;
    seen.push_back({{point.begin(), point.end()}, predicted, 0});
    batch.push_back({.decision = std::move(candidates[best].decision)});
    candidates.erase(candidates.begin() + static_cast<int64_t>(best));
  }
  return batch;
}

void GaussianProcessProposer::Tell(const SearchProblem& problem, std::span<const Trial> batch) {
  for (const Trial& trial : batch)
    if (!trial.failed)
      seen_.push_back(
          {problem.Point(trial), trial.value, trial.standard_error * trial.standard_error});
}

ESPALIER_REGISTER_PROPOSER(GaussianProcessProposer, GaussianProcessConfig,
                           {.name = "gaussian_process",
                            .summary = "Bayesian optimisation by expected improvement",
                            .source = "Jones et al., J. Global Optim. 13, 1998",
                            .facts = {kNeedsData, "deterministic"}})

}  // namespace espalier

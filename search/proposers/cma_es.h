#pragma once

#include <Eigen/Dense>

#include "search/proposer.h"

namespace espalier {

struct CmaEsConfig {
  int64_t population = 0;  ///< 0 = 4 + 3 ln(groups), the paper's
  double sigma = 0.4;      ///< first step, of the logarithm of a ratio
};
Schema Describe(CmaEsConfig& config);

/// CMA-ES on the logarithms of the keep ratios.
///
/// Source   Hansen, "The CMA Evolution Strategy: A Tutorial", arXiv:1604.00772, figure 6 and table
/// 1
///          (positive weights).
/// Deviates Ratios outside their bounds are clipped, and the clipped point is what is learned from.
/// State    mean, covariance, paths and step: a function of what it was told.
class CmaEs final : public Proposer {
 public:
  static constexpr const char* kName = "cma_es";
  explicit CmaEs(const CmaEsConfig& config) : config_(config) {}
  std::vector<Proposal> Ask(const SearchProblem& problem, Rng& rng) const override;
  void Tell(const SearchProblem& problem, std::span<const Trial> batch) override;
  int64_t Wanted(int64_t batch) const override { return batch / 2; }

  /// One generation on its own: minimisers of test functions check it. x: [d, population]; values:
  /// larger = better, -infinity = failed.
  struct State {
    Eigen::VectorXd mean, path_sigma, path_c;
    Eigen::MatrixXd covariance, axes;  // axes * diag(lengths) has covariance `covariance`
    Eigen::VectorXd lengths;
    double sigma = 0;
    int64_t generation = 0;
  };
  static State Begin(const Eigen::VectorXd& mean, double sigma);
  static Eigen::MatrixXd Sample(const State& state, int64_t population, Rng& rng);
  static void Update(State& state, const Eigen::MatrixXd& x, const std::vector<double>& values);

 private:
  int64_t Population(const SearchProblem& problem) const;
  const CmaEsConfig config_;
  State state_;  // empty mean: nothing was told
};

}  // namespace espalier

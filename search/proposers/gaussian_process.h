#pragma once

#include <Eigen/Dense>
#include <vector>

#include "search/proposer.h"

namespace espalier {

struct GaussianProcessConfig {
  int64_t start = 24;        ///< random candidates at the start
  int64_t batch = 4;         ///< candidates proposed at a time
  int64_t candidates = 256;  ///< random points at which the improvement is compared
  int64_t local = 256;       ///< further ones near the best trials
  double least = 0.1;        ///< smallest ratio drawn
};
Schema Describe(GaussianProcessConfig& config);

/// Regression with a Matern 5/2 kernel and known noise, on standardised values.
///
/// Source   Rasmussen, Williams, "Gaussian Processes for Machine Learning", 2006: eq. 2.25-2.26 for
///          mean and variance, 2.30 for the marginal likelihood, 4.17 for the kernel.
class GaussianProcess {
 public:
  /// points: [n, d]; values: [n]; noise: [n] variances of the values. The length scale is the one
  /// of a grid with the highest marginal likelihood; the signal variance follows in closed form.
  GaussianProcess(Eigen::MatrixXd points, const Eigen::VectorXd& values,
                  const Eigen::VectorXd& noise);
  struct Prediction {
    double mean = 0, deviation = 0;
  };
  Prediction At(const Eigen::VectorXd& point) const;
  double length_scale() const { return length_; }
  double log_likelihood() const { return log_likelihood_; }

 private:
  double Kernel(double distance) const;
  Eigen::MatrixXd points_;
  double mean_ = 0, scale_ = 1, length_ = 1;
  double log_likelihood_ = 0;
  Eigen::LLT<Eigen::MatrixXd> factor_;
  Eigen::VectorXd weights_;
};

/// E[max(0, Y - best)] for Y normal. Source: Jones, Schonlau, Welch, J. Global Optim. 13, 1998, eq.
/// 15.
double ExpectedImprovement(double mean, double deviation, double best);

/// Bayesian optimisation: proposes where the expected improvement is largest. A batch is filled by
/// taking each proposal's predicted mean for its value ("kriging believer").
///
/// Source   Jones, Schonlau, Welch 1998; Ginsbourger et al. 2010 for the batch.
class GaussianProcessProposer final : public Proposer {
 public:
  static constexpr const char* kName = "gaussian_process";
  explicit GaussianProcessProposer(const GaussianProcessConfig& config) : config_(config) {}
  std::vector<Proposal> Ask(const SearchProblem& problem, Rng& rng) const override;
  void Tell(const SearchProblem& problem, std::span<const Trial> batch) override;
  int64_t Wanted(int64_t) const override { return 1; }

 private:
  struct Seen {
    std::vector<double> point;
    double value, noise;
  };
  const GaussianProcessConfig config_;
  std::vector<Seen> seen_;
};

}  // namespace espalier

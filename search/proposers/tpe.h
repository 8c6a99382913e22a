#pragma once

#include "search/proposer.h"

namespace espalier {

struct TpeConfig {
  int64_t start = 24;       ///< random candidates at the start
  int64_t batch = 4;        ///< candidates proposed at a time
  double good = 0.2;        ///< share of the trials that counts as good; the paper: 0.15
  int64_t candidates = 48;  ///< draws of which the most promising is proposed; hyperopt: 24
  double least = 0.1;       ///< smallest ratio drawn at the start
};
Schema Describe(TpeConfig& config);

/// Tree-structured Parzen estimator, one ratio at a time: densities l of the good and g of the
/// other trials; proposes the draw from l with the largest l / g, which has the largest expected
/// improvement.
///
/// Source   Bergstra, Bardenet, Bengio, Kegl, "Algorithms for Hyper-Parameter Optimization", NIPS
///          2011, section 4.
class Tpe final : public Proposer {
 public:
  static constexpr const char* kName = "tpe";
  explicit Tpe(const TpeConfig& config) : config_(config) {}
  std::vector<Proposal> Ask(const SearchProblem& problem, Rng& rng) const override;
  void Tell(const SearchProblem& problem, std::span<const Trial> batch) override;
  int64_t Wanted(int64_t batch) const override { return (batch + 1) / 2; }

 private:
  const TpeConfig config_;
  std::vector<std::pair<double, Decision>> seen_;  // (value, point)
};

/// A mixture of normals cut off at the ends of [low, high], one at each point, and one uniform
/// part.
class ParzenEstimator {
 public:
  ParzenEstimator(std::vector<double> points, double low, double high);
  double Draw(Rng& rng) const;
  double LogDensity(double x) const;

 private:
  double Mass() const { return high_ - low_; }
  std::vector<double> points_;
  double low_, high_, width_;
};

}  // namespace espalier

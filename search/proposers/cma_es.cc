#include "search/proposers/cma_es.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "search/search_loop.h"

namespace espalier {

Schema Describe(CmaEsConfig& config) {
  Schema schema;
  schema.Add("population", &config.population, "candidates a generation; 0 = 4 + 3 ln(groups)",
             {.low = 0});
  schema.Add("sigma", &config.sigma, "first step, of the logarithm of a ratio",
             RealRange{.low = 0, .open_low = true});
  return schema;
}

CmaEs::State CmaEs::Begin(const Eigen::VectorXd& mean, double sigma) {
  const Eigen::Index d = mean.size();
  return {.mean = mean,
          .path_sigma = Eigen::VectorXd::Zero(d),
          .path_c = Eigen::VectorXd::Zero(d),
          .covariance = Eigen::MatrixXd::Identity(d, d),
          .axes = Eigen::MatrixXd::Identity(d, d),
          .lengths = Eigen::VectorXd::Ones(d),
          .sigma = sigma};
}

Eigen::MatrixXd CmaEs::Sample(const State& state, int64_t population, Rng& rng) {
  Eigen::MatrixXd x(state.mean.size(), population);
  for (Eigen::Index k = 0; k < x.cols(); ++k) {
    Eigen::VectorXd z(state.mean.size());
    for (double& entry : z) entry = rng.Normal();
    x.col(k) = state.mean + state.sigma * (state.axes * state.lengths.cwiseProduct(z));
  }
  return x;
}

void CmaEs::Update(State& state, const Eigen::MatrixXd& x, const std::vector<double>& values) {
  const auto d = static_cast<double>(x.rows());
  const Eigen::Index population = x.cols(), parents = population / 2;
  std::vector<Eigen::Index> order(static_cast<size_t>(population));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](Eigen::Index a, Eigen::Index b) {
    return values[static_cast<size_t>(a)] > values[static_cast<size_t>(b)];
  });
  Eigen::VectorXd weights(parents);  // eq. 49, positive part, normalised
  for (Eigen::Index i = 0; i < parents; ++i)
    weights(i) =
        std::log((static_cast<double>(population) + 1) / 2) - std::log(static_cast<double>(i) + 1);
  weights /= weights.sum();
  const double mu = 1 / weights.squaredNorm();

  // Table 1.
  const double c_sigma = (mu + 2) / (d + mu + 5);
  const double damping = 1 + 2 * std::max(0.0, std::sqrt((mu - 1) / (d + 1)) - 1) + c_sigma;
  const double c_c = (4 + mu / d) / (d + 4 + 2 * mu / d);
  const double c_1 = 2 / ((d + 1.3) * (d + 1.3) + mu);
  const double c_mu = std::min(1 - c_1, 2 * (0.25 + mu + 1 / mu - 2) / ((d + 2) * (d + 2) + mu));
  const double expected = std::sqrt(d) * (1 - 1 / (4 * d) + 1 / (21 * d * d));  // E||N(0, I)||

  Eigen::MatrixXd steps(x.rows(), parents);
  for (Eigen::Index i = 0; i < parents; ++i)
    steps.col(i) = (x.col(order[static_cast<size_t>(i)]) - state.mean) / state.sigma;
  const Eigen::VectorXd step = steps * weights;
  state.mean += state.sigma * step;
  ++state.generation;

  const Eigen::VectorXd whitened =
      state.axes * (state.axes.transpose() * step).cwiseQuotient(state.lengths);
  state.path_sigma =
      (1 - c_sigma) * state.path_sigma + std::sqrt(c_sigma * (2 - c_sigma) * mu) * whitened;
  const double norm = state.path_sigma.norm();
  const double settled =
      std::sqrt(1 - std::pow(1 - c_sigma, 2 * static_cast<double>(state.generation)));
  const bool steady = norm / settled < (1.4 + 2 / (d + 1)) * expected;
  state.path_c = (1 - c_c) * state.path_c;
  if (steady) state.path_c += std::sqrt(c_c * (2 - c_c) * mu) * step;
  const double lost = steady ? 0 : c_1 * c_c * (2 - c_c);
  state.covariance = (1 - c_1 - c_mu + lost) * state.covariance +
                     c_1 * state.path_c * state.path_c.transpose() +
                     c_mu * steps * weights.asDiagonal() * steps.transpose();
  state.sigma *= std::exp(c_sigma / damping * (norm / expected - 1));

  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(state.covariance);
  state.axes = solver.eigenvectors();
  state.lengths = solver.eigenvalues().cwiseMax(1e-14).cwiseSqrt();
}

int64_t CmaEs::Population(const SearchProblem& problem) const {
  if (config_.population > 0) return std::max<int64_t>(config_.population, 4);
  return 4 + static_cast<int64_t>(3 * std::log(static_cast<double>(problem.groups())));
}

std::vector<Proposal> CmaEs::Ask(const SearchProblem& problem, Rng& rng) const {
  const Eigen::MatrixXd x = Sample(state_, Population(problem), rng);
  std::vector<Proposal> batch;
  for (Eigen::Index k = 0; k < x.cols(); ++k) {
    Proposal& proposal = batch.emplace_back();
    for (Eigen::Index g = 0; g < x.rows(); ++g)
      proposal.decision.push_back(std::clamp(std::exp(x(g, k)), problem.low[static_cast<size_t>(g)],
                                             problem.high[static_cast<size_t>(g)]));
  }
  return batch;
}

void CmaEs::Tell(const SearchProblem& problem, std::span<const Trial> batch) {
  const auto groups = static_cast<Eigen::Index>(problem.groups());
  const auto logs = [groups](const std::vector<double>& ratios) {
    Eigen::VectorXd x(groups);
    for (Eigen::Index g = 0; g < groups; ++g) x(g) = std::log(ratios[static_cast<size_t>(g)]);
    return x;
  };
  if (state_.mean.size() == 0) {  // starts from the best of what it is given first
    const Trial* best = nullptr;
    for (const Trial& trial : batch)
      if (!trial.failed && (best == nullptr || trial.value > best->value)) best = &trial;
    state_ = Begin(best != nullptr ? logs(problem.Point(*best))
                                   : Eigen::VectorXd::Constant(groups, std::log(0.5)).eval(),
                   config_.sigma);
    return;
  }
  Eigen::MatrixXd x(groups, static_cast<Eigen::Index>(batch.size()));
  std::vector<double> values;
  for (size_t k = 0; k < batch.size(); ++k) {
    const Trial& trial = batch[k];
    x.col(static_cast<Eigen::Index>(k)) =
        trial.kept.empty() ? state_.mean : logs(trial.proposal.decision);
    values.push_back(trial.failed ? -std::numeric_limits<double>::infinity() : trial.value);
  }
  if (batch.size() >= 2) Update(state_, x, values);
}

ESPALIER_REGISTER_PROPOSER(CmaEs, CmaEsConfig,
                           {.name = "cma_es",
                            .summary = "learns the covariance of good steps",
                            .source = "arXiv:1604.00772, figure 6",
                            .facts = {kNeedsData, "deterministic"}})

}  // namespace espalier

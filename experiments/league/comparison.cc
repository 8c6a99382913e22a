#include "experiments/league/comparison.h"

#include <ATen/ATen.h>

#include <boost/math/distributions/students_t.hpp>
#include <cmath>

#include "env/base/error.h"

namespace espalier {

std::string PairedDifference::Verdict() const {
  if (std::abs(mean) <= half_width) return "tie";
  return mean > 0 ? "better" : "worse";
}

Spread SpreadOf(const std::vector<double>& values) {
  Spread spread;
  const auto n = static_cast<double>(values.size());
  for (const double value : values) spread.mean += value / n;
  double squares = 0;
  for (const double value : values) squares += (value - spread.mean) * (value - spread.mean);
  if (values.size() > 1) spread.deviation = std::sqrt(squares / (n - 1));
  return spread;
}

PairedDifference Compare(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  ESPALIER_CHECK(a.size() == b.size() && !a.empty(), a.size(), " seeds beside ", b.size());
  std::vector<double> means;
  Tensor average;  // [N], over seeds
  for (size_t seed = 0; seed < a.size(); ++seed) {
    ESPALIER_CHECK(a[seed].sizes() == b[seed].sizes(), "samples differ: ", a[seed].sizes(), ", ",
                   b[seed].sizes());
    const Tensor difference = a[seed].to(at::kDouble) - b[seed].to(at::kDouble);
    means.push_back(difference.mean().item<double>());
    average = average.defined() ? average + difference : difference;
  }
  const auto seeds = static_cast<double>(a.size());
  average = average / seeds;
  const Spread over_seeds = SpreadOf(means);
  double from_seeds = 0;
  if (a.size() > 1) {
    const boost::math::students_t_distribution<> student(seeds - 1);
    from_seeds = boost::math::quantile(student, 0.975) * over_seeds.deviation / std::sqrt(seeds);
  }
  const auto samples = static_cast<double>(average.numel());
  constexpr double kNormal = 1.959964;  // 97.5 % quantile
  const double from_samples =
      average.numel() > 1 ? kNormal * average.std().item<double>() / std::sqrt(samples) : 0;
  return {.mean = over_seeds.mean, .half_width = std::hypot(from_seeds, from_samples)};
}

}  // namespace espalier

#include "controllers/gates.h"

#include <cmath>

#include "env/base/error.h"

namespace espalier {

double LogitOf(double open) {
  ESPALIER_CHECK(open > 0 && open < 1, "a gate can be ", open, " open only in the limit");
  return -std::log(1.0 / open - 1.0);
}

Tensor StraightThrough(const Tensor& hard, const Tensor& soft) {
  return (soft - soft.detach()) + hard.detach();
}

Tensor StraightThroughRound(const Tensor& x) { return StraightThrough(x.round(), x); }

Tensor StraightThroughThreshold(const Tensor& soft, double threshold) {
  return StraightThrough(soft.ge(threshold).to(soft.scalar_type()), soft);
}

Tensor GumbelNoise(at::IntArrayRef sizes, Rng& rng) {
  Tensor noise = at::empty(sizes, at::kDouble);
  auto* values = noise.mutable_data_ptr<double>();
  for (int64_t i = 0; i < noise.numel(); ++i) {
    double uniform = rng.Uniform();
    while (uniform <= 0) uniform = rng.Uniform();  // ln 0: once in 2^53 draws
    values[i] = -std::log(-std::log(uniform));
  }
  return noise;
}

Tensor GumbelSigmoid(const Tensor& logits, const Tensor& noise, double temperature, double offset) {
  ESPALIER_CHECK(temperature > 0, "temperature is ", temperature);
  return at::sigmoid((logits + noise.to(logits.options()) + offset) / temperature);
}

Tensor DistanceToBinary(const Tensor& gates) { return (gates - gates.detach().round()).abs(); }

}  // namespace espalier

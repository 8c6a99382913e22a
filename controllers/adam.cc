#include "controllers/adam.h"

#include <cmath>

#include "env/base/error.h"

namespace espalier {

Adam::Adam(std::vector<Tensor> parameters, const AdamOptions& options)
    : parameters_(std::move(parameters)), options_(options) {
  for (const Tensor& parameter : parameters_) {
    state.first.push_back(at::zeros_like(parameter));
    state.second.push_back(at::zeros_like(parameter));
  }
}

void Adam::Step() {
  const at::NoGradGuard no_grad;
  ++state.step;
  const auto t = static_cast<double>(state.step);
  const double correction1 = 1 - std::pow(options_.beta1, t);
  const double correction2 = 1 - std::pow(options_.beta2, t);
  for (size_t i = 0; i < parameters_.size(); ++i) {
    Tensor& parameter = parameters_[i];
    const Tensor gradient = parameter.grad();
    if (!gradient.defined()) continue;
    if (options_.weight_decay > 0) parameter.mul_(1 - options_.lr * options_.weight_decay);
    Tensor& m = state.first[i].mul_(options_.beta1).add_(gradient, 1 - options_.beta1);
    Tensor& v =
        state.second[i].mul_(options_.beta2).addcmul_(gradient, gradient, 1 - options_.beta2);
    const Tensor scale = (v / correction2).sqrt_().add_(options_.eps);  // sqrt(v^) + eps
    parameter.addcdiv_(m, scale, -options_.lr / correction1);
    parameter.mutable_grad() = Tensor();
  }
}

}  // namespace espalier

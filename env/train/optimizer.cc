#include "env/train/optimizer.h"

#include <ATen/ATen.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/_fused_sgd.h>

#include "env/base/error.h"

namespace espalier {

Optimizer::Optimizer(const TrainConfig& config, const std::vector<NamedTensor>& parameters)
    : config_(config) {
  const at::NoGradGuard no_grad;
  ParameterGroup decayed{config.weight_decay, {}}, plain{0, {}};
  for (const auto& [name, parameter] : parameters) {
    Slot slot{name, parameter, {}, {}};
    const bool adamw = config.optimizer == "adamw";
    if (adamw || config.momentum > 0) slot.first = at::zeros_like(parameter);
    if (adamw) slot.second = at::zeros_like(parameter);
    // Norm weights and biases have one axis.
    const bool decays = config.decay_norm_and_bias || parameter.dim() > 1;
    (decays ? decayed : plain).slots.push_back(std::move(slot));
  }
  groups_ = {std::move(decayed), std::move(plain)};
  const at::Device device = parameters.empty() ? at::kCPU : parameters.front().second.device();
  // Kernels of other devices read the rate as float32.
  lr_ = at::zeros({}, at::device(device).dtype(device.is_cpu() ? at::kDouble : at::kFloat));
  step_ = at::zeros({}, at::device(device).dtype(at::kFloat));
}

void Optimizer::Prepare(double lr) {
  const at::NoGradGuard no_grad;
  lr_.fill_(lr);
  step_.fill_(static_cast<double>(++steps_));
}

void Optimizer::Update() const {
  const at::NoGradGuard no_grad;
  for (const ParameterGroup& group : groups_) UpdateGroup(group);
}

void Optimizer::UpdateGroup(const ParameterGroup& group) const {
  constexpr double kBeta1 = 0.9, kBeta2 = 0.999, kEps = 1e-8;  // torch.optim.AdamW's defaults
  std::vector<Tensor> parameters, grads, first, second, steps;
  for (const Slot& slot : group.slots) {
    Tensor grad = slot.parameter.grad();
    if (!grad.defined()) continue;
    // The fused kernels walk the memory of all lists alike.
    if (grad.strides() != slot.parameter.strides())
      grad = at::empty_like(slot.parameter).copy_(grad);
    parameters.push_back(slot.parameter);
    grads.push_back(grad);
    if (slot.first.defined()) first.push_back(slot.first);
    if (slot.second.defined()) second.push_back(slot.second);
    slot.parameter.mutable_grad() = Tensor();
  }
  if (parameters.empty()) return;
  if (config_.optimizer == "sgd") {
    // The buffers start at 0, so that the first step needs no case of its own: 0 * momentum + grad.
    at::_fused_sgd_(parameters, grads, first, group.weight_decay, config_.momentum, lr_,
                    /*dampening=*/0, config_.nesterov, /*maximize=*/false,
                    /*is_first_step=*/false);
    return;
  }
  ESPALIER_CHECK(config_.optimizer == "adamw", "optimizer '", config_.optimizer, "'");
  steps.assign(parameters.size(), step_);
  at::_fused_adamw_(parameters, grads, first, second, /*max_exp_avg_sqs=*/{}, steps, lr_, kBeta1,
                    kBeta2, group.weight_decay, kEps, /*amsgrad=*/false, /*maximize=*/false);
}

std::vector<NamedTensor> Optimizer::State() const {
  std::vector<NamedTensor> state;
  for (const ParameterGroup& group : groups_)
    for (const Slot& slot : group.slots) {
      if (!slot.first.defined()) continue;
      if (!slot.second.defined()) {
        state.emplace_back("momentum/" + slot.name, slot.first);
        continue;
      }
      state.emplace_back("exp_avg/" + slot.name, slot.first);
      state.emplace_back("exp_avg_sq/" + slot.name, slot.second);
    }
  return state;
}

}  // namespace espalier

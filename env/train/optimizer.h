#pragma once

#include <string>
#include <utility>
#include <vector>

#include "env/base/tensor.h"
#include "env/train/trainer.h"

namespace espalier {

/// SGD with momentum, or AdamW (beta 0.9 and 0.999, eps 1e-8), with LibTorch's fused updates.
///
/// Source   torch.optim.SGD (dampening 0) and torch.optim.AdamW: the same formulas.
/// State    one or two tensors a parameter, by parameter name, and the number of steps taken.
class Optimizer {
 public:
  /// Parameters are updated in place; they keep their memory format.
  Optimizer(const TrainConfig& config, const std::vector<NamedTensor>& parameters);

  /// Begins a step with a learning rate.
  void Prepare(double lr);
  /// Its update from the parameters' gradients, which it then clears. Parameters without a gradient
  /// stay as they are. Reads rate and number of the step from tensors: it can be recorded.
  void Update() const;

  /// Handles of the state: "momentum/NAME", or "exp_avg/NAME" and "exp_avg_sq/NAME".
  std::vector<NamedTensor> State() const;
  int64_t steps() const { return steps_; }
  void set_steps(int64_t steps) { steps_ = steps; }

 private:
  struct Slot {
    std::string name;
    Tensor parameter, first, second;  // first: not for SGD without momentum; second: AdamW only
  };
  struct ParameterGroup {
    double weight_decay = 0;
    std::vector<Slot> slots;
  };
  void UpdateGroup(const ParameterGroup& group) const;

  const TrainConfig config_;
  std::vector<ParameterGroup> groups_;
  Tensor lr_, step_;  // [], where the parameters are
  int64_t steps_ = 0;
};

}  // namespace espalier

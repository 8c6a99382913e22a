#pragma once

#include <vector>

#include "env/base/tensor.h"

namespace espalier {

struct AdamOptions {
  double lr = 1e-3;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0;  ///< decoupled (AdamW): parameters shrink by lr * weight_decay a step
};

/// Adam for the few small tensors of a controller; network weights belong to the Trainer.
///
/// Source   Kingma, Ba, "Adam: A Method for Stochastic Optimization", arXiv:1412.6980v9, Algorithm
/// 1;
///          decoupled decay: Loshchilov, Hutter, arXiv:1711.05101.
/// Symbols  m -> first, v -> second, t -> step.
/// State    first, second and step: public, so that a checkpoint can keep and restore them.
class Adam {
 public:
  Adam(std::vector<Tensor> parameters, const AdamOptions& options);

  /// One update from the parameters' gradients, then clears the gradients. Parameters without a
  /// gradient stay as they are.
  void Step();
  void set_lr(double lr) { options_.lr = lr; }

  struct State {
    std::vector<Tensor> first, second;  ///< m, v: like the parameters
    int64_t step = 0;                   ///< t
  };
  State state;

 private:
  std::vector<Tensor> parameters_;
  AdamOptions options_;
};

}  // namespace espalier

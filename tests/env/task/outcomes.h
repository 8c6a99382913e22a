#pragma once

#include <ATen/ATen.h>

#include <string>
#include <vector>

#include "env/task/outcome.h"

namespace espalier::testing_support {

inline Tensor Classes(const std::vector<int64_t>& classes) {
  return at::tensor(classes, at::kLong);
}

inline Outcome Labelled(const Tensor& output, const Tensor& target) {
  return {{.inputs = {}, .targets = {target}}, {output}, {}};
}
inline Outcome Unlabelled(const Tensor& output, const Tensor& uncut) {
  return {{.inputs = {}, .targets = {}}, {output}, {uncut}};
}

/// Made-up outputs in double that the loss or metric of this name takes; `samples` of them.
inline Outcome RandomOutcome(const std::string& name, int64_t samples, uint64_t seed) {
  Rng rng(seed, 0, name);
  const auto normal = [&](const std::vector<int64_t>& sizes) {
    Tensor tensor = at::empty(sizes, at::kDouble);
    for (int64_t i = 0; i < tensor.numel(); ++i) tensor.view(-1)[i] = rng.Normal();
    return tensor;
  };
  const auto whole = [&](const std::vector<int64_t>& sizes, uint64_t below) {
    Tensor tensor = at::empty(sizes, at::kLong);
    for (int64_t i = 0; i < tensor.numel(); ++i)
      tensor.view(-1)[i] = static_cast<int64_t>(rng.Index(below));
    return tensor;
  };
  if (name == "next_token_nll" || name == "perplexity")
    return Labelled(normal({samples, 5, 4}), whole({samples, 5}, 4));
  if (name == "mse") return Labelled(normal({samples, 3}), normal({samples, 3}));
  if (name == "bce") return Labelled(normal({samples, 3}), whole({samples, 3}, 2).to(at::kDouble));
  if (name == "mean_iou") return Labelled(normal({samples, 3, 2, 2}), whole({samples, 2, 2}, 3));
  Outcome outcome = Labelled(normal({samples, 8}), whole({samples}, 8));
  outcome.uncut = {outcome.outputs[0] + 0.5 * normal({samples, 8})};
  return outcome;
}

}  // namespace espalier::testing_support

#include "criteria/regularisers/regulariser.h"

#include <ATen/ATen.h>

#include "env/base/call_text.h"

namespace espalier {

std::unique_ptr<Regulariser> MakeRegulariser(const std::string& text) {
  return CreateFromCall<Regulariser>("regulariser", text);
}

Tensor Penalty(const Regulariser& regulariser, const UnitWeights& weights, const Tensor& memory) {
  const Tensor sizes = regulariser.Sizes(weights);
  return sizes.dot(regulariser.Strengths(weights, sizes.detach(), memory).detach());
}

Tensor SquaredNorms(const UnitWeights& weights) {
  return weights.Sum([](const Tensor& weight) { return weight.square(); });
}

}  // namespace espalier

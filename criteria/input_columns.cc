#include "criteria/input_columns.h"

#include <ATen/ATen.h>

namespace espalier {

std::string NotAMatrix(const Network& network, const Op& op) {
  const std::string& name = op.handle.operator_name().name;
  const bool conv = name == "aten::conv2d";
  if (!conv && name != "aten::linear") return "it is no convolution or linear layer";
  const ValueId weight = op.ValueArg("weight");
  const std::string stored =
      weight == kNoValue ? "" : network.graph.values[static_cast<size_t>(weight)].target;
  if (stored.empty()) return "its weight is computed";
  if (network.store.Get(stored).dim() != (conv ? 4 : 2)) return "its weight has another rank";
  if (!conv) return "";
  if (op.Constant("groups").toInt() != 1) return "grouped convolution";
  if (!op.Constant("padding").isIntList()) return "padding given by name";
  return "";
}

Tensor InputColumns(const Op& op, const Tensor& weight, const Tensor& input) {
  if (weight.dim() == 2) return input.reshape({-1, input.size(-1)}).t();
  const Tensor columns = at::im2col(
      input.contiguous(), weight.sizes().slice(2), op.Constant("dilation").toIntVector(),
      op.Constant("padding").toIntVector(), op.Constant("stride").toIntVector());  // [n, K, L]
  return columns.transpose(0, 1).reshape({columns.size(1), -1});
}

}  // namespace espalier

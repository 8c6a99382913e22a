#include "env/space/masked_reference.h"

#include <ATen/ATen.h>
#include <torch/library.h>

#include "env/base/error.h"

namespace espalier {
namespace {

using OptionalTensor = std::optional<Tensor>;

/// Mean of x over `dims`, of entries where mask is 1; 0 where none is. mask broadcasts to x.
Tensor MaskedMean(const Tensor& x, const Tensor& mask, at::IntArrayRef dims, bool keepdim) {
  const Tensor weight = mask.to(x.scalar_type()).expand(x.sizes());
  return (x * weight).sum(dims, keepdim) / weight.sum(dims, keepdim).clamp_min(1);
}

Tensor Scaled(Tensor y, const OptionalTensor& weight, const OptionalTensor& bias) {
  if (weight) y = y * *weight;
  return bias ? y + *bias : y;
}

std::vector<int64_t> LastDims(size_t count) {
  std::vector<int64_t> dims;
  for (size_t i = 1; i <= count; ++i) dims.push_back(-static_cast<int64_t>(i));
  return dims;
}

Tensor MaskedLayerNorm(const Tensor& x, const Tensor& mask, at::IntArrayRef shape,
                       const OptionalTensor& weight, const OptionalTensor& bias, double eps) {
  const auto dims = LastDims(shape.size());
  const Tensor centred = x - MaskedMean(x, mask, dims, true);
  const Tensor variance = MaskedMean(centred * centred, mask, dims, true);
  return Scaled(centred * (variance + eps).rsqrt(), weight, bias);
}

Tensor MaskedRmsNorm(const Tensor& x, const Tensor& mask, at::IntArrayRef shape,
                     const OptionalTensor& weight, std::optional<double> eps) {
  const double least = x.scalar_type() == at::kDouble ? std::numeric_limits<double>::epsilon()
                                                      : std::numeric_limits<float>::epsilon();
  const Tensor power = MaskedMean(x * x, mask, LastDims(shape.size()), true);
  return Scaled(x * (power + eps.value_or(least)).rsqrt(), weight, std::nullopt);
}

Tensor MaskedGroupNorm(const Tensor& x, const Tensor& mask, int64_t groups,
                       const OptionalTensor& weight, const OptionalTensor& bias, double eps) {
  const Tensor all = mask.to(x.scalar_type()).expand(x.sizes());
  const Tensor rows = x.reshape({x.size(0), groups, -1});
  const Tensor kept = all.reshape({x.size(0), groups, -1});
  const Tensor centred = rows - MaskedMean(rows, kept, {-1}, true);
  const Tensor variance = MaskedMean(centred * centred, kept, {-1}, true);
  std::vector<int64_t> channel(static_cast<size_t>(x.dim()), 1);
  channel[1] = x.size(1);
  const auto shaped = [&](const OptionalTensor& tensor) {
    return tensor ? OptionalTensor(tensor->view(channel)) : tensor;
  };
  return Scaled((centred * (variance + eps).rsqrt()).reshape(x.sizes()), shaped(weight),
                shaped(bias));
}

Tensor MaskedMeanOp(const Tensor& x, const Tensor& mask, at::IntArrayRef dims, bool keepdim) {
  return MaskedMean(x, mask, dims, keepdim);
}

/// Graph operators of the masked reference; they never leave the process.
TORCH_LIBRARY(espalier_masked, library) {
  library.def(
      "layer_norm(Tensor x, Tensor mask, int[] shape, Tensor? weight, Tensor? bias, float eps) -> "
      "Tensor",
      MaskedLayerNorm);
  library.def("rms_norm(Tensor x, Tensor mask, int[] shape, Tensor? weight, float? eps) -> Tensor",
              MaskedRmsNorm);
  library.def(
      "group_norm(Tensor x, Tensor mask, int groups, Tensor? weight, Tensor? bias, float eps) -> "
      "Tensor",
      MaskedGroupNorm);
  library.def("mean(Tensor x, Tensor mask, int[] dims, bool keepdim) -> Tensor", MaskedMeanOp);
}

/// The mask in the shape in which it broadcasts to the argument.
Tensor MaskOf(const ReadPoint& point, const std::vector<uint8_t>& mask, size_t rank) {
  std::vector<float> kept;
  for (const int32_t unit : point.unit)
    kept.push_back(unit < 0 || mask[static_cast<size_t>(unit)] ? 1.0F : 0.0F);
  std::vector<int64_t> shape = point.shape;
  if (point.axis >= 0) {
    shape.assign(rank, 1);
    shape[static_cast<size_t>(point.axis)] = static_cast<int64_t>(kept.size());
  }
  return at::tensor(kept).view(shape);
}

}  // namespace

Network MaskedReference(const Space& space, const std::vector<uint8_t>& mask) {
  Network reference = space.network();
  Graph& graph = reference.graph;
  for (const ReadPoint& point : space.norms()) {
    Op& op = graph.ops[static_cast<size_t>(point.op)];
    const ValueId input = std::get<ValueId>(op.args[static_cast<size_t>(point.arg)]);
    const std::string stored = Str("espalier_mask.", op.name);
    reference.store.Add(
        stored, MaskOf(point, mask, space.values()[static_cast<size_t>(input)].sizes.size()),
        StoreKind::kConstant);
    graph.values.push_back({Str("mask_", op.name), ValueKind::kConstant, stored, -1});
    const auto value = static_cast<ValueId>(graph.values.size() - 1);
    const auto arg = [&](const char* name) {
      return op.args[static_cast<size_t>(op.ArgIndex(name))];
    };
    const std::string name = op.handle.operator_name().name;
    std::vector<Arg> args;
    if (name == "aten::layer_norm")
      args = {input, value, arg("normalized_shape"), arg("weight"), arg("bias"), arg("eps")};
    else if (name == "aten::rms_norm")
      args = {input, value, arg("normalized_shape"), arg("weight"), arg("eps")};
    else if (name == "aten::group_norm")
      args = {input, value, arg("num_groups"), arg("weight"), arg("bias"), arg("eps")};
    else if (name == "aten::mean")
      args = {input, value, arg("dim"), arg("keepdim")};
    else
      throw Error(ErrorKind::kModel, Str("no masked form of ", op.target()));
    op.handle = FindOperator("espalier_masked::" + name.substr(6), "");
    op.args = std::move(args);
  }
  return reference;
}

}  // namespace espalier

#include "env/space/masked_reference.h"

#include <ATen/ATen.h>
#include <torch/library.h>

#include <limits>
#include <tuple>

#include "env/base/error.h"
#include "env/graph/merged_batch.h"

namespace espalier {
namespace {

using OptionalTensor = std::optional<Tensor>;

/// Mean of x over `dims`, of entries where mask is 1; 0 where none is. mask broadcasts to x.
Tensor MaskedMean(const Tensor& x, const Tensor& mask, at::IntArrayRef dims, bool keepdim) {
  const Tensor weight = SpreadOverBatch(mask, x.sizes()).to(x.scalar_type()).expand(x.sizes());
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
  const Tensor all = SpreadOverBatch(mask, x.sizes()).to(x.scalar_type()).expand(x.sizes());
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

/// Variance and mean; as many entries as `correction` says are taken off the divisor.
std::tuple<Tensor, Tensor> MaskedVarMean(const Tensor& x, const Tensor& mask, at::IntArrayRef dims,
                                         double correction, bool keepdim) {
  const Tensor weight = SpreadOverBatch(mask, x.sizes()).to(x.scalar_type()).expand(x.sizes());
  const Tensor mean = MaskedMean(x, mask, dims, true);
  const Tensor squares = (x - mean).square() * weight;
  return {squares.sum(dims, keepdim) / (weight.sum(dims, keepdim) - correction).clamp_min(0),
          MaskedMean(x, mask, dims, keepdim)};
}

std::tuple<Tensor, Tensor> MaskedStdMean(const Tensor& x, const Tensor& mask, at::IntArrayRef dims,
                                         double correction, bool keepdim) {
  const auto [variance, mean] = MaskedVarMean(x, mask, dims, correction, keepdim);
  return {variance.sqrt(), mean};
}

Tensor MaskedVar(const Tensor& x, const Tensor& mask, at::IntArrayRef dims, double correction,
                 bool keepdim) {
  return std::get<0>(MaskedVarMean(x, mask, dims, correction, keepdim));
}

Tensor MaskedStd(const Tensor& x, const Tensor& mask, at::IntArrayRef dims, double correction,
                 bool keepdim) {
  return MaskedVar(x, mask, dims, correction, keepdim).sqrt();
}

Tensor Without(const Tensor& x, const Tensor& mask, double filler) {
  return x.masked_fill(SpreadOverBatch(mask, x.sizes()).logical_not(), filler);
}

constexpr double kInfinite = std::numeric_limits<double>::infinity();

Tensor MaskedMax(const Tensor& x, const Tensor& mask, at::IntArrayRef dims, bool keepdim) {
  return Without(x, mask, -kInfinite).amax(dims, keepdim);
}

Tensor MaskedMin(const Tensor& x, const Tensor& mask, at::IntArrayRef dims, bool keepdim) {
  return Without(x, mask, kInfinite).amin(dims, keepdim);
}

Tensor Keep(const Tensor& x, const Tensor& mask) { return x * SpreadOverBatch(mask, x.sizes()); }

/// Graph operators of the masked reference; they never leave the process.
TORCH_LIBRARY(espalier_masked, library) {
  library.def("keep(Tensor x, Tensor mask) -> Tensor", Keep);
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
  library.def("mean(Tensor x, Tensor mask, int[] dims, bool keepdim) -> Tensor", MaskedMean);
  library.def("max(Tensor x, Tensor mask, int[] dims, bool keepdim) -> Tensor", MaskedMax);
  library.def("min(Tensor x, Tensor mask, int[] dims, bool keepdim) -> Tensor", MaskedMin);
  const auto moments = [&](const char* name, const char* results, auto function) {
    const std::string schema = Str(
        name, "(Tensor x, Tensor mask, int[] dims, float correction, bool keepdim) -> ", results);
    library.def(schema.c_str(), function);
  };
  moments("var", "Tensor", MaskedVar);
  moments("std", "Tensor", MaskedStd);
  moments("var_mean", "(Tensor, Tensor)", MaskedVarMean);
  moments("std_mean", "(Tensor, Tensor)", MaskedStdMean);
}

/// The mask in the shape in which it broadcasts to the argument.
Tensor MaskOf(const ReadPoint& point, const std::vector<uint8_t>& mask, size_t rank) {
  std::vector<int64_t> shape = point.shape;
  if (point.axis >= 0) {
    shape.assign(rank, 1);
    shape[static_cast<size_t>(point.axis)] = static_cast<int64_t>(point.unit.size());
  }
  Tensor kept = at::ones(shape, at::kBool);  // fits any type it is multiplied with
  bool* entry = kept.mutable_data_ptr<bool>();
  for (const int32_t unit : point.unit) *entry++ = unit < 0 || mask[static_cast<size_t>(unit)];
  return kept;
}

/// The axes an op reduces over, as a list.
c10::IValue Dims(const Op& op) {
  const c10::IValue& dim = op.Constant("dim");
  return dim.isInt() ? c10::IValue(std::vector<int64_t>{dim.toInt()}) : dim;
}

/// What an op takes off the divisor of its variance: 1 unless it says otherwise.
double Correction(const Op& op) {
  if (op.ArgIndex("unbiased") >= 0) return op.Constant("unbiased").toBool() ? 1 : 0;
  const c10::IValue& correction = op.Constant("correction");
  return correction.isNone() ? 1 : correction.toScalar().toDouble();
}

class Masker {
 public:
  Masker(const Space& space, const std::vector<uint8_t>& mask)
      : space_(space), mask_(mask), reference_(space.network()) {}

  Network Run() {
    for (const ReadPoint& point : space_.norms()) MaskNorm(point);
    auto read = space_.reads().begin();
    std::vector<Op> ops;
    for (size_t i = 0; i < reference_.graph.ops.size(); ++i) {
      Op& op = reference_.graph.ops[i];
      for (; read != space_.reads().end() && read->op == static_cast<int32_t>(i); ++read)
        MaskRead(*read, op, ops);
      ops.push_back(std::move(op));
    }
    ESPALIER_CHECK(read == space_.reads().end(), "reads are not in the order of the ops");
    for (size_t i = 0; i < ops.size(); ++i)
      for (const ValueId output : ops[i].outputs)
        reference_.graph.values[static_cast<size_t>(output)].producer = static_cast<int32_t>(i);
    reference_.graph.ops = std::move(ops);
    return std::move(reference_);
  }

 private:
  /// A stored mask for an argument, and the value that reads it.
  ValueId AddMask(const ReadPoint& point, const Op& op) {
    const std::string name = Str("espalier_mask.", op.name, ".", count_++);
    // As it stands in the network: another mask may have been put before the argument.
    const Arg& arg =
        space_.network().graph.ops[static_cast<size_t>(point.op)].args[static_cast<size_t>(
            point.arg)];
    const auto* list = std::get_if<ValueList>(&arg);
    const ValueId value =
        list ? list->ids[static_cast<size_t>(point.element)] : std::get<ValueId>(arg);
    const size_t rank = space_.values()[static_cast<size_t>(value)].sizes.size();
    reference_.store.Add(name, MaskOf(point, mask_, rank), StoreKind::kConstant);
    return AddValue({name, ValueKind::kConstant, name, -1});
  }

  ValueId AddValue(Value value) {
    reference_.graph.values.push_back(std::move(value));
    return static_cast<ValueId>(reference_.graph.values.size() - 1);
  }

  /// What is read is multiplied first, by an op of its own.
  void MaskRead(const ReadPoint& point, Op& op, std::vector<Op>& ops) {
    Arg& arg = op.args[static_cast<size_t>(point.arg)];
    auto* list = std::get_if<ValueList>(&arg);
    ValueId& input = list ? list->ids[static_cast<size_t>(point.element)] : std::get<ValueId>(arg);
    const ValueId kept = AddMask(point, op);
    const std::string name = Str("masked_", op.name, "_", count_);
    const ValueId product = AddValue({name, ValueKind::kResult, "", -1});
    ops.push_back({.name = name,
                   .handle = FindOperator("espalier_masked::keep", ""),
                   .args = {input, kept},
                   .outputs = {product},
                   .module_path = op.module_path,
                   .module_type = ""});
    input = product;
  }

  void MaskNorm(const ReadPoint& point) {
    Op& op = reference_.graph.ops[static_cast<size_t>(point.op)];
    const ValueId input = std::get<ValueId>(op.args[static_cast<size_t>(point.arg)]);
    const ValueId value = AddMask(point, op);
    const auto arg = [&](const char* name) {
      return op.args[static_cast<size_t>(op.ArgIndex(name))];
    };
    std::string name = op.handle.operator_name().name.substr(6);  // without "aten::"
    std::vector<Arg> args;
    if (name == "layer_norm")
      args = {input, value, arg("normalized_shape"), arg("weight"), arg("bias"), arg("eps")};
    else if (name == "rms_norm")
      args = {input, value, arg("normalized_shape"), arg("weight"), arg("eps")};
    else if (name == "group_norm")
      args = {input, value, arg("num_groups"), arg("weight"), arg("bias"), arg("eps")};
    else if (name == "mean")
      args = {input, value, Dims(op), arg("keepdim")};
    else if (name == "var" || name == "std" || name == "var_mean" || name == "std_mean")
      args = {input, value, Dims(op), c10::IValue(Correction(op)), arg("keepdim")};
    else if (name == "max" || name == "amax" || name == "min" || name == "amin") {
      args = {input, value, Dims(op), arg("keepdim")};
      name = name.substr(name.size() - 3);
      op.outputs.resize(1);  // where the largest was found is not asked for
    } else
      throw Error(ErrorKind::kModel, Str("no masked form of ", op.target()));
    op.handle = FindOperator("espalier_masked::" + name, "");
    op.args = std::move(args);
  }

  const Space& space_;
  const std::vector<uint8_t>& mask_;
  Network reference_;
  int count_ = 0;
};

}  // namespace

Network MaskedReference(const Space& space, const std::vector<uint8_t>& mask) {
  return Masker(space, mask).Run();
}

}  // namespace espalier

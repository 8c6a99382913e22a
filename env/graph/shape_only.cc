#include "env/graph/shape_only.h"

#include <ATen/ATen.h>
#include <ATen/ExpandUtils.h>

#include <algorithm>
#include <string>
#include <unordered_map>

#include "env/base/error.h"
#include "env/graph/schema_writes.h"

namespace espalier {
namespace {

using Stack = std::vector<c10::IValue>;
using Sizes = std::vector<int64_t>;
/// The result's sizes; empty result when the arguments are not as expected.
using Rule = std::optional<Sizes> (*)(const Op& op, const Stack& stack);

const Tensor& At(const Stack& stack, size_t index) { return stack[index].toTensor(); }

std::optional<Sizes> SameAsFirst(const Op&, const Stack& stack) {
  return At(stack, 0).sizes().vec();
}

std::optional<Sizes> Broadcast(const Op&, const Stack& stack) {
  if (!stack[1].isTensor()) return At(stack, 0).sizes().vec();
  return at::infer_size(At(stack, 0).sizes(), At(stack, 1).sizes());
}

std::optional<Sizes> Convolution(const Op&, const Stack& stack) {
  const Tensor &input = At(stack, 0), &weight = At(stack, 1);
  const auto spatial = static_cast<size_t>(weight.dim()) - 2;
  if (input.dim() != weight.dim() || !stack[4].isIntList()) return std::nullopt;
  const Sizes stride = stack[3].toIntVector(), padding = stack[4].toIntVector(),
              dilation = stack[5].toIntVector();
  if (input.size(1) != weight.size(1) * stack[6].toInt()) return std::nullopt;
  const auto entry = [](const Sizes& list, size_t i) { return list[list.size() == 1 ? 0 : i]; };
  Sizes sizes = {input.size(0), weight.size(0)};
  for (size_t i = 0; i < spatial; ++i) {
    const auto axis = static_cast<int64_t>(i) + 2;
    const int64_t reach = entry(dilation, i) * (weight.size(axis) - 1) + 1;
    const int64_t room = input.size(axis) + 2 * entry(padding, i) - reach;
    if (room < 0) return std::nullopt;
    sizes.push_back(room / entry(stride, i) + 1);
  }
  return sizes;
}

std::optional<Sizes> Linear(const Op&, const Stack& stack) {
  const Tensor &input = At(stack, 0), &weight = At(stack, 1);
  if (weight.dim() != 2 || input.dim() < 1 || input.size(-1) != weight.size(1)) return std::nullopt;
  Sizes sizes = input.sizes().vec();
  sizes.back() = weight.size(0);
  return sizes;
}

std::optional<Sizes> Product(const Op&, const Stack& stack) {
  const Tensor &a = At(stack, 0), &b = At(stack, 1);
  if (a.dim() < 2 || b.dim() < 2 || a.size(-1) != b.size(-2)) return std::nullopt;
  Sizes sizes = at::infer_size(a.sizes().slice(0, static_cast<size_t>(a.dim()) - 2),
                               b.sizes().slice(0, static_cast<size_t>(b.dim()) - 2));
  sizes.push_back(a.size(-2));
  sizes.push_back(b.size(-1));
  return sizes;
}

std::optional<Sizes> Attention(const Op&, const Stack& stack) {
  Sizes sizes = At(stack, 0).sizes().vec();
  if (sizes.size() < 2) return std::nullopt;
  sizes.back() = At(stack, 2).size(-1);
  return sizes;
}

std::optional<Sizes> Cat(const Op&, const Stack& stack) {
  const std::vector<Tensor> tensors = stack[0].toTensorVector();
  Sizes sizes = tensors.front().sizes().vec();
  const auto rank = static_cast<int64_t>(sizes.size());
  const int64_t dim = stack[1].toInt() < 0 ? stack[1].toInt() + rank : stack[1].toInt();
  for (size_t i = 1; i < tensors.size(); ++i) {
    if (tensors[i].dim() != rank || tensors[i].scalar_type() != tensors[0].scalar_type())
      return std::nullopt;
    for (int64_t d = 0; d < rank; ++d)
      if (d != dim && tensors[i].size(d) != sizes[static_cast<size_t>(d)]) return std::nullopt;
    sizes[static_cast<size_t>(dim)] += tensors[i].size(dim);
  }
  return sizes;
}

const std::unordered_map<std::string, Rule>& Rules() {
  static const auto* rules = [] {
    auto* table = new std::unordered_map<std::string, Rule>();
    for (const char* name : {"conv1d", "conv2d", "conv3d"})
      (*table)[Str("aten::", name)] = Convolution;
    for (const char* name :
         {"batch_norm", "layer_norm", "group_norm",  "rms_norm", "relu",      "relu_",
          "gelu",       "silu",       "silu_",       "sigmoid",  "sigmoid_",  "tanh",
          "hardswish",  "hardswish_", "hardsigmoid", "hardtanh", "hardtanh_", "relu6",
          "relu6_",     "leaky_relu", "leaky_relu_", "mish",     "dropout",   "dropout_",
          "exp",        "rsqrt",      "neg",         "clone",    "contiguous"})
      (*table)[Str("aten::", name)] = SameAsFirst;
    for (const char* name : {"add", "sub", "mul", "div"}) (*table)[Str("aten::", name)] = Broadcast;
    for (const char* name : {"add_", "sub_", "mul_", "div_"})
      (*table)[Str("aten::", name)] = SameAsFirst;
    (*table)["aten::linear"] = Linear;
    for (const char* name : {"matmul", "bmm", "mm"}) (*table)[Str("aten::", name)] = Product;
    (*table)["aten::scaled_dot_product_attention"] = Attention;
    (*table)["aten::cat"] = Cat;
    return table;
  }();
  return *rules;
}

/// The result's type: that of the tensors that meet.
std::optional<at::ScalarType> TypeOf(const Stack& stack, Rule rule) {
  if (rule == Cat) return stack[0].toTensorVector().front().scalar_type();
  if (rule == Broadcast && stack[1].isTensor()) return at::result_type(At(stack, 0), At(stack, 1));
  return At(stack, 0).scalar_type();
}

}  // namespace

bool ShapeOnly(const Op& op, std::vector<c10::IValue>& stack) {
  const auto found = Rules().find(op.handle.operator_name().name);
  if (found != Rules().end() && !op.returns_list && op.outputs.size() == 1 && !stack.empty() &&
      (stack[0].isTensor() || stack[0].isTensorList())) {
    const auto type = TypeOf(stack, found->second);
    const auto sizes = found->second(op, stack);
    if (sizes && at::isFloatingType(*type)) {
      const Tensor first =
          stack[0].isTensor() ? stack[0].toTensor() : stack[0].toTensorVector().front();
      stack = {at::zeros({}, first.options().dtype(*type)).expand(*sizes)};
      return true;
    }
  }
  const auto& arguments = op.handle.schema().arguments();
  const bool asks_for_strides = op.handle.operator_name().name == "aten::view_as_complex";
  for (size_t a = 0; a < arguments.size() && a < stack.size(); ++a)
    if ((IsWritten(arguments[a]) || asks_for_strides) && stack[a].isTensor())
      stack[a] = stack[a].toTensor().contiguous().clone();
  return false;
}

}  // namespace espalier

#include "env/graph/script_operators.h"

#include <ATen/ATen.h>
#include <torch/csrc/jit/ir/ir.h>

#include <algorithm>
#include <set>

#include "env/base/error.h"
#include "env/base/words.h"
#include "env/graph/schema_writes.h"

namespace espalier::script {
namespace {

template <typename... Parts>
[[noreturn]] void Fail(const Parts&... parts) {
  throw Error(ErrorKind::kModel, Str(parts...));
}

const Item& Argument(const OperatorCall& call, const std::string& name) {
  const auto& schema = call.handle.schema().arguments();
  for (size_t i = 0; i < schema.size() && i < call.arguments.size(); ++i)
    if (schema[i].name() == name) return call.arguments[i];
  Fail("argument '", name, "' is missing");
}

/// The same arguments under another operator; those it does not have are left out, those it has
/// beyond take their defaults.
OperatorCall Renamed(const OperatorCall& call, const std::string& name, const std::string& overload,
                     const std::map<std::string, Item>& changed = {}) {
  OperatorCall made{FindOperator(name, overload), {}};
  const auto& old = call.handle.schema().arguments();
  for (const c10::Argument& argument : made.handle.schema().arguments()) {
    const auto given = changed.find(argument.name());
    const auto same = std::find_if(old.begin(), old.end(), [&](const c10::Argument& known) {
      return known.name() == argument.name();
    });
    if (given != changed.end())
      made.arguments.push_back(given->second);
    else if (same != old.end())
      made.arguments.push_back(call.arguments.at(static_cast<size_t>(same - old.begin())));
    else if (argument.default_value())
      made.arguments.push_back(ItemOf(*argument.default_value()));
    else
      Fail("argument '", argument.name(), "' is missing");
  }
  return made;
}

int64_t SpatialAxes(const OperatorCall& call) {
  const auto* weight = As<TensorItem>(Argument(call, "weight"));
  if (!weight) Fail("the weight of a convolution is no tensor");
  return weight->probe[0].dim() - 2;
}

OperatorCall Convolution(const OperatorCall& call) {
  const int64_t axes = SpatialAxes(call);
  if (axes < 1 || axes > 3) return call;
  if (call.handle.operator_name().name == "aten::_convolution_mode")
    return Renamed(call, Str("aten::conv", axes, "d"), "padding");
  if (ConstantInt(Argument(call, "transposed")) == 0)
    return Renamed(call, Str("aten::conv", axes, "d"), "");
  return Renamed(call, Str("aten::conv_transpose", axes, "d"), axes == 1 ? "" : "input");
}

/// addmm(bias, x, weight.t()) of a Linear.
OperatorCall Linear(const Assembler& assembler, const OperatorCall& call, const Place& place) {
  const auto* transposed = As<TensorItem>(Argument(call, "mat2"));
  const TensorItem* weight = transposed ? assembler.TransposeOf(*transposed) : nullptr;
  if (!weight || !(place.type.ends_with(".Linear") || place.type.ends_with("::LinearImpl")) ||
      !IsOne(Argument(call, "beta")) || !IsOne(Argument(call, "alpha")))
    return call;
  return Renamed(
      call, "aten::linear", "",
      {{"input", Argument(call, "mat1")}, {"weight", *weight}, {"bias", Argument(call, "self")}});
}

OperatorCall Normalised(const Assembler& assembler, const OperatorCall& call, const Place& place) {
  const auto& [name, overload] = call.handle.operator_name();
  if (name == "aten::_convolution" || name == "aten::_convolution_mode") return Convolution(call);
  if (name == "aten::addmm" && overload.empty()) return Linear(assembler, call, place);
  static const std::set<std::string> kArithmetic = {"aten::add",  "aten::sub",  "aten::mul",
                                                    "aten::div",  "aten::add_", "aten::sub_",
                                                    "aten::mul_", "aten::div_"};
  if (kArithmetic.contains(name) && overload == "Scalar" && As<c10::IValue>(call.arguments.at(1)))
    return Renamed(call, name, "Tensor");
  return call;
}

/// The flag that says "training" when it is on. instance_norm without running statistics has it on
/// in eval mode too.
void CheckEvalMode(const OperatorCall& call) {
  const std::string& name = call.handle.operator_name().name;
  if (name == "aten::instance_norm" && IsNone(Argument(call, "running_mean"))) return;
  for (const char* flag : {"training", "train", "use_input_stats"}) {
    const auto& schema = call.handle.schema().arguments();
    for (size_t i = 0; i < schema.size(); ++i)
      if (schema[i].name() == flag) {
        const auto* value = As<c10::IValue>(call.arguments.at(i));
        if (value && value->isBool() && value->toBool())
          throw Error(ErrorKind::kModel, "it was recorded in training mode",
                      "call model.eval() before torch.jit.trace");
      }
  }
}

}  // namespace

int64_t ConstantInt(const Item& item) {
  const auto* constant = As<c10::IValue>(item);
  if (!constant || !(constant->isInt() || constant->isBool())) Fail("a plain number is expected");
  return constant->isBool() ? constant->toBool() : constant->toInt();
}

bool IsOne(const Item& item) {
  const auto* constant = As<c10::IValue>(item);
  return constant && constant->isScalar() && constant->toScalar().to<double>() == 1;
}

std::vector<Item> CallNormalised(Assembler& assembler, const OperatorCall& call,
                                 const Place& place) {
  CheckEvalMode(call);
  const OperatorCall normal = Normalised(assembler, call, place);
  return assembler.Call(normal.handle, normal.arguments, place);
}

std::optional<Item> AskTensor(Assembler& assembler, const std::string& name,
                              const TensorItem& tensor, const std::vector<Item>& inputs,
                              const Place& place) {
  const int64_t rank = tensor.probe[0].dim();
  if (name == "aten::size" && inputs.size() > 1)
    return assembler.SizeOf(tensor, ConstantInt(inputs[1]), place);
  if (name == "aten::len") return assembler.SizeOf(tensor, 0, place);
  if (name == "aten::size") {
    std::vector<Item> sizes;
    for (int64_t dim = 0; dim < rank; ++dim) sizes.push_back(assembler.SizeOf(tensor, dim, place));
    return MakeList(std::move(sizes), c10::IntType::get());
  }
  if (name == "aten::numel") {
    int64_t constant = 1;
    std::optional<Item> varying;
    for (int64_t dim = 0; dim < rank; ++dim) {
      const Item size = assembler.SizeOf(tensor, dim, place);
      if (const auto* number = As<c10::IValue>(size))
        constant *= number->toInt();
      else
        varying = varying ? assembler.Arithmetic("mul", *varying, size, place) : size;
    }
    if (!varying) return c10::IValue(constant);
    return constant == 1 ? *varying
                         : assembler.Arithmetic("mul", *varying, c10::IValue(constant), place);
  }
  return std::nullopt;
}

bool LooksAtShapeOnly(const std::string& name) {
  static const std::set<std::string> kNames = Words(
      "aten::dim aten::ndimension aten::stride aten::is_contiguous aten::is_floating_point "
      "aten::is_complex aten::get_device aten::storage_offset aten::is_same_size prim::dtype "
      "prim::device prim::layout prim::is_cuda prim::is_sparse prim::is_quantized "
      "prim::is_nested prim::requires_grad prim::is_mkldnn prim::isinstance prim::is_meta "
      "prim::is_cpu prim::is_mps prim::is_xla prim::is_xpu prim::is_vulkan prim::is_ipu "
      "prim::is_hpu prim::is_maia aten::element_size aten::__isnot__ aten::__is__");
  return kNames.contains(name);
}

std::string SizeOperator(const std::string& name, const std::vector<Item>& inputs) {
  static const std::map<std::string, std::string> kNames = {{"aten::add", "add"},
                                                            {"aten::sub", "sub"},
                                                            {"aten::mul", "mul"},
                                                            {"aten::rsub", "sub"},
                                                            {"aten::floordiv", "floordiv"},
                                                            {"aten::neg", "neg"},
                                                            {"aten::floor_divide", "floordiv"},
                                                            {"aten::remainder", "mod"},
                                                            {"aten::div", "div"},
                                                            {"aten::true_divide", "div"}};
  const auto found = kNames.find(name);
  if (found == kNames.end()) return {};
  if (name == "aten::div" && inputs.size() > 2) {
    const auto* mode = As<c10::IValue>(inputs[2]);  // sizes are positive: trunc is floor
    if (mode && mode->isString()) return "floordiv";
  }
  return found->second;
}

std::optional<Item> ConvertSize(const std::string& name, const SizeItem& size) {
  static const std::set<std::string> kToInt = {"aten::Int", "aten::IntImplicit", "aten::item",
                                               "aten::ScalarImplicit", "prim::TensorToNum"};
  static const std::set<std::string> kSame = {"aten::to",      "aten::detach", "aten::clone",
                                              "aten::detach_", "prim::data",   "aten::floor",
                                              "aten::ceil",    "aten::trunc"};
  SizeItem made = size;
  if (kToInt.contains(name)) {
    made.as_tensor = false;
    return made;
  }
  if (name == "prim::NumToTensor") {
    made.as_tensor = true;
    return made;
  }
  if (kSame.contains(name)) return made;
  return std::nullopt;
}

std::vector<Item> RunOnNumbers(const torch::jit::Node& node, const std::vector<Item>& inputs) {
  std::array<std::vector<c10::IValue>, 2> stacks;
  bool varies = false;
  for (const Item& input : inputs) {
    varies = varies || HasSize(input) || HasTensor(input);
    for (size_t probe = 0; probe < 2; ++probe) {
      auto value = ValueAt(input, probe);
      if (!value) Fail("an argument of this kind is not supported");
      stacks[probe].push_back(std::move(*value));
    }
  }
  for (size_t probe = 0; probe < (varies ? 2 : 1); ++probe) {
    const at::NoGradGuard no_grad;
    try {
      node.getOperation()(stacks[probe]);
    } catch (const c10::Error&) {
      throw;
    } catch (const std::exception& error) {
      Fail(error.what());
    }
  }
  if (!varies) stacks[1] = stacks[0];
  std::vector<Item> results;
  for (size_t i = 0; i < stacks[0].size(); ++i) {
    const c10::IValue &first = stacks[0][i], &second = stacks[1][i];
    if (varies && !first.isString() && (first.isTensor() || first != second))
      Fail("its result depends on the batch or on data");
    results.push_back(ItemOf(first));
  }
  return results;
}

bool FoldsToConstant(const std::vector<Item>& inputs, const c10::FunctionSchema& schema) {
  static const std::set<std::string> kCopies = {"aten::to", "aten::detach", "aten::clone",
                                                "aten::lift_fresh", "aten::lift_fresh_copy"};
  const bool copies = kCopies.contains(schema.name());
  bool any = false;
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (HasSize(inputs[i]) || HasTensor(inputs[i])) return false;
    const auto* constant = As<c10::IValue>(inputs[i]);
    if (!constant || !constant->isTensor()) continue;
    if (constant->toTensor().dim() > 0 && !copies) return false;
    any = true;
  }
  return any && !WritesAny(schema);
}

}  // namespace espalier::script

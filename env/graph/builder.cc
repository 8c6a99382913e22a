#include "env/graph/builder.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <cmath>

#include "env/base/error.h"

namespace espalier {
namespace {

/// "layer1.0.conv1.weight" -> "layer1_0_conv1_weight": value names as torch.export writes them.
std::string Mangle(std::string name) {
  std::replace(name.begin(), name.end(), '.', '_');
  return name;
}

/// Adapts a constant to the schema: an int where the schema says float, one int for an int list.
c10::IValue Adapt(const c10::Argument& argument, c10::IValue value) {
  c10::TypePtr type = argument.type();
  if (const auto optional = type->cast<c10::OptionalType>()) {
    if (value.isNone()) return value;
    type = optional->getElementType();
  }
  if (type->kind() == c10::TypeKind::FloatType && value.isInt())
    return c10::IValue(static_cast<double>(value.toInt()));
  if (type->kind() == c10::TypeKind::ListType && value.isInt())
    return c10::IValue(
        std::vector<int64_t>(static_cast<size_t>(argument.N().value_or(1)), value.toInt()));
  return value;
}

}  // namespace

Builder::Builder(std::string name, uint64_t seed, Init init) : seed_(seed), init_(init) {
  network_.name = std::move(name);
}

ValueId Builder::Input(const std::string& name, std::vector<int64_t> sizes, at::ScalarType dtype) {
  auto& graph = network_.graph;
  graph.values.push_back({name, ValueKind::kInput, {}, -1});
  const auto id = static_cast<ValueId>(graph.values.size() - 1);
  graph.inputs.push_back({id, std::move(sizes), dtype, true});
  return id;
}

ValueId Builder::Stored(const std::string& name, Tensor tensor, StoreKind kind) {
  network_.store.Add(name, std::move(tensor), kind);
  auto& values = network_.graph.values;
  const bool parameter = kind == StoreKind::kParameter;
  values.push_back({(parameter ? "p_" : "b_") + Mangle(name),
                    parameter ? ValueKind::kParameter : ValueKind::kBuffer, name, -1});
  return static_cast<ValueId>(values.size() - 1);
}

ValueId Builder::Parameter(const std::string& name, Tensor tensor) {
  return Stored(name, std::move(tensor), StoreKind::kParameter);
}

ValueId Builder::Buffer(const std::string& name, Tensor tensor) {
  return Stored(name, std::move(tensor), StoreKind::kBuffer);
}

void Builder::Tie(const std::string& alias, const std::string& name) {
  network_.store.Tie(alias, name);
}

ValueId Builder::NewResult(const std::string& base) {
  const int64_t seen = name_counts_[base]++;
  network_.graph.values.push_back({seen == 0 ? base : Str(base, "_", seen),
                                   ValueKind::kResult,
                                   {},
                                   static_cast<int32_t>(network_.graph.ops.size())});
  return static_cast<ValueId>(network_.graph.values.size() - 1);
}

std::vector<ValueId> Builder::CallMulti(const std::string& op, const std::string& overload,
                                        std::vector<NamedArg> args, int64_t outputs,
                                        const std::string& path, const std::string& type) {
  Op call{.name = {},
          .handle = FindOperator(op, overload),
          .args = {},
          .outputs = {},
          .returns_list = false,
          .module_path = path,
          .module_type = type};
  const auto& schema = call.handle.schema();
  for (const c10::Argument& argument : schema.arguments()) {
    const auto given = std::find_if(args.begin(), args.end(), [&](const NamedArg& named) {
      return named.first == argument.name();
    });
    if (given != args.end()) {
      if (const auto* constant = std::get_if<c10::IValue>(&given->second))
        call.args.emplace_back(Adapt(argument, *constant));
      else
        call.args.push_back(given->second);
      args.erase(given);
    } else if (argument.default_value()) {
      call.args.emplace_back(*argument.default_value());
    } else {
      throw Error(ErrorKind::kModel, Str(call.target(), " at '", path, "': argument '",
                                         argument.name(), "' is missing"));
    }
  }
  if (!args.empty())
    throw Error(ErrorKind::kModel,
                Str(call.target(), " at '", path, "' has no argument '", args.front().first, "'"));
  call.returns_list =
      schema.returns().size() == 1 && schema.returns()[0].type()->kind() == c10::TypeKind::ListType;
  const std::string base = op.substr(op.find("::") + 2);
  for (int64_t i = 0; i < outputs; ++i) call.outputs.push_back(NewResult(base));
  call.name = network_.graph.values[static_cast<size_t>(call.outputs.front())].name;
  std::vector<ValueId> results = call.outputs;
  network_.graph.ops.push_back(std::move(call));
  return results;
}

ValueId Builder::Call(const std::string& op, const std::string& overload,
                      std::vector<NamedArg> args, const std::string& path,
                      const std::string& type) {
  return CallMulti(op, overload, std::move(args), 1, path, type).front();
}

Tensor Builder::InitWeight(const std::string& name, const std::vector<int64_t>& sizes,
                           int64_t fan_in, int64_t fan_out) const {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(StreamSeed(seed_, 0, name));
  if (init_ == Init::kTorchDefault) {
    const double bound =
        1.0 / std::sqrt(static_cast<double>(fan_in));  // kaiming_uniform, a = sqrt 5
    return at::empty(sizes).uniform_(-bound, bound, generator);
  }
  const int64_t fan = init_ == Init::kKaimingNormal ? fan_in : fan_out;
  return at::empty(sizes).normal_(0, std::sqrt(2.0 / static_cast<double>(fan)), generator);
}

ValueId Builder::Conv2d(const std::string& path, ValueId x, int64_t in, int64_t out,
                        const ConvOptions& options) {
  ESPALIER_CHECK(in % options.groups == 0 && out % options.groups == 0, path, ": ", in, " -> ", out,
                 " channels do not split into ", options.groups, " groups");
  const int64_t area = options.kernel * options.kernel;
  const int64_t fan_in = in / options.groups * area;
  const int64_t fan_out = out / options.groups * area;
  const ValueId weight = Parameter(
      path + ".weight",
      InitWeight(path + ".weight", {out, in / options.groups, options.kernel, options.kernel},
                 fan_in, fan_out));
  Arg bias = c10::IValue();
  if (options.bias) {
    auto generator = at::make_generator<at::CPUGeneratorImpl>(StreamSeed(seed_, 0, path + ".bias"));
    const double bound = 1.0 / std::sqrt(static_cast<double>(fan_in));
    bias = Parameter(path + ".bias", init_ == Init::kKaimingNormalFanOut
                                         ? at::zeros({out})
                                         : at::empty({out}).uniform_(-bound, bound, generator));
  }
  return Call("aten::conv2d", "",
              {{"input", x},
               {"weight", weight},
               {"bias", bias},
               {"stride", c10::IValue(std::vector<int64_t>(2, options.stride))},
               {"padding", c10::IValue(std::vector<int64_t>(2, options.padding))},
               {"groups", c10::IValue(options.groups)}},
              path, "torch.nn.modules.conv.Conv2d");
}

ValueId Builder::BatchNorm2d(const std::string& path, ValueId x, int64_t channels, double eps,
                             double momentum) {
  const ValueId weight = Parameter(path + ".weight", at::ones({channels}));
  const ValueId bias = Parameter(path + ".bias", at::zeros({channels}));
  const ValueId mean = Buffer(path + ".running_mean", at::zeros({channels}));
  const ValueId variance = Buffer(path + ".running_var", at::ones({channels}));
  Buffer(path + ".num_batches_tracked", at::zeros({}, at::kLong));
  return Call("aten::batch_norm", "",
              {{"input", x},
               {"weight", weight},
               {"bias", bias},
               {"running_mean", mean},
               {"running_var", variance},
               {"training", c10::IValue(false)},
               {"momentum", c10::IValue(momentum)},
               {"eps", c10::IValue(eps)},
               {"cudnn_enabled", c10::IValue(true)}},
              path, "torch.nn.modules.batchnorm.BatchNorm2d");
}

ValueId Builder::Linear(const std::string& path, ValueId x, int64_t in, int64_t out, bool bias) {
  const Init init = init_;
  if (init_ == Init::kKaimingNormalFanOut) init_ = Init::kTorchDefault;  // torchvision keeps it
  const ValueId weight =
      Parameter(path + ".weight", InitWeight(path + ".weight", {out, in}, in, out));
  init_ = init;
  Arg bias_arg = c10::IValue();
  if (bias) {
    auto generator = at::make_generator<at::CPUGeneratorImpl>(StreamSeed(seed_, 0, path + ".bias"));
    const double bound = 1.0 / std::sqrt(static_cast<double>(in));
    bias_arg = Parameter(path + ".bias", at::empty({out}).uniform_(-bound, bound, generator));
  }
  return Call("aten::linear", "", {{"input", x}, {"weight", weight}, {"bias", bias_arg}}, path,
              "torch.nn.modules.linear.Linear");
}

ValueId Builder::Relu(ValueId x, const std::string& path) {
  return Call("aten::relu", "", {{"self", x}}, path, "torch.nn.modules.activation.ReLU");
}

ValueId Builder::Relu6(ValueId x, const std::string& path) {
  return Call("aten::hardtanh", "",
              {{"self", x}, {"min_val", c10::IValue(0.0)}, {"max_val", c10::IValue(6.0)}}, path,
              "torch.nn.modules.activation.ReLU6");
}

ValueId Builder::MaxPool2d(ValueId x, const PoolOptions& options, const std::string& path) {
  const int64_t stride = options.stride ? options.stride : options.kernel;
  return Call("aten::max_pool2d", "",
              {{"self", x},
               {"kernel_size", c10::IValue(std::vector<int64_t>(2, options.kernel))},
               {"stride", c10::IValue(std::vector<int64_t>(2, stride))},
               {"padding", c10::IValue(std::vector<int64_t>(2, options.padding))},
               {"ceil_mode", c10::IValue(options.ceil_mode)}},
              path, "torch.nn.modules.pooling.MaxPool2d");
}

ValueId Builder::AvgPool2d(ValueId x, const PoolOptions& options, const std::string& path) {
  const int64_t stride = options.stride ? options.stride : options.kernel;
  return Call("aten::avg_pool2d", "",
              {{"self", x},
               {"kernel_size", c10::IValue(std::vector<int64_t>(2, options.kernel))},
               {"stride", c10::IValue(std::vector<int64_t>(2, stride))},
               {"padding", c10::IValue(std::vector<int64_t>(2, options.padding))},
               {"ceil_mode", c10::IValue(options.ceil_mode)}},
              path, "torch.nn.modules.pooling.AvgPool2d");
}

ValueId Builder::AdaptiveAvgPool2d(ValueId x, int64_t size, const std::string& path) {
  return Call("aten::adaptive_avg_pool2d", "",
              {{"self", x}, {"output_size", c10::IValue(std::vector<int64_t>{size, size})}}, path,
              "torch.nn.modules.pooling.AdaptiveAvgPool2d");
}

ValueId Builder::Flatten(ValueId x, int64_t start_dim) {
  return Call("aten::flatten", "using_ints", {{"self", x}, {"start_dim", c10::IValue(start_dim)}});
}

ValueId Builder::Add(ValueId a, ValueId b, const std::string& path) {
  return Call("aten::add", "Tensor", {{"self", a}, {"other", b}}, path);
}

ValueId Builder::Cat(std::vector<ValueId> values, int64_t dim, const std::string& path) {
  return Call("aten::cat", "",
              {{"tensors", ValueList{std::move(values)}}, {"dim", c10::IValue(dim)}}, path);
}

ValueId Builder::Dropout(ValueId x, double p, const std::string& path) {
  return Call("aten::dropout", "",
              {{"input", x}, {"p", c10::IValue(p)}, {"train", c10::IValue(false)}}, path,
              "torch.nn.modules.dropout.Dropout");
}

Network Builder::Finish(std::vector<ValueId> outputs) {
  network_.graph.outputs = std::move(outputs);
  Validate(network_.graph);
  return std::move(network_);
}

}  // namespace espalier

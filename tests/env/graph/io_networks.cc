#include "tests/env/graph/io_networks.h"

#include <ATen/ATen.h>

#include <limits>

#include "env/graph/builder.h"

namespace espalier {
namespace {

c10::IValue Ints(std::vector<int64_t> values) { return c10::IValue(std::move(values)); }

}  // namespace

Network SmallConvNet() {
  Builder b("small", 3);
  ValueId x = b.Input("x", {2, 3, 16, 16});
  x = b.Relu(b.BatchNorm2d("bn1", b.Conv2d("conv1", x, 3, 8, {.padding = 1}), 8), "relu");
  ValueId y = b.Conv2d("layer1.0.conv1", x, 8, 16, {.stride = 2, .padding = 1});
  y = b.Relu(b.BatchNorm2d("layer1.0.bn1", y, 16), "layer1.0.relu");
  y = b.Conv2d("layer1.0.conv2", y, 16, 16, {.padding = 1, .groups = 16, .bias = true});
  ValueId shortcut = b.Call("aten::slice", "Tensor",
                            {{"self", x},
                             {"dim", c10::IValue(2)},
                             {"start", c10::IValue(0)},
                             {"end", c10::IValue(std::numeric_limits<int64_t>::max())},
                             {"step", c10::IValue(2)}},
                            "layer1.0.shortcut");
  shortcut = b.Call("aten::slice", "Tensor",
                    {{"self", shortcut},
                     {"dim", c10::IValue(3)},
                     {"start", c10::IValue(0)},
                     {"end", c10::IValue(std::numeric_limits<int64_t>::max())},
                     {"step", c10::IValue(2)}},
                    "layer1.0.shortcut");
  shortcut = b.Call(
      "aten::pad", "",
      {{"self", shortcut}, {"pad", Ints({0, 0, 0, 0, 4, 4})}, {"mode", c10::IValue("constant")}},
      "layer1.0.shortcut");
  y = b.Relu(b.Add(y, shortcut, "layer1.0"), "layer1.0.relu");
  const ValueId pooled = b.MaxPool2d(y, {.kernel = 2}, "pool");
  const ValueId other = b.Relu6(
      b.Conv2d("branch.conv", y, 16, 4, {.kernel = 1, .stride = 2, .bias = true}), "branch.act");
  y = b.Cat({pooled, other});  // [b, 20, 4, 4]
  y = b.Flatten(b.AdaptiveAvgPool2d(b.Dropout(y, 0.5, "dropout"), 2, "avgpool"));
  Network net = b.Finish({b.Linear("fc", y, 80, 5)});
  for (const char* bn : {"bn1", "layer1.0.bn1"}) {
    const Tensor& mean = net.store.Get(std::string(bn) + ".running_mean");
    mean.copy_(at::linspace(-0.5, 0.5, mean.numel()));
    const Tensor& variance = net.store.Get(std::string(bn) + ".running_var");
    variance.copy_(at::linspace(0.5, 2.0, variance.numel()));
  }
  return net;
}

Network ManyKindsNet() {
  Builder b("kinds", 5);
  const ValueId tokens = b.Input("tokens", {2, 6}, at::kLong);
  const ValueId scale = b.Input("input", {2, 8});
  const ValueId table = b.Parameter("embed.weight", at::randn({11, 8}));
  b.Tie("head.weight", "embed.weight");
  const ValueId mask = b.Buffer("mask", at::ones({6}, at::kBool));
  ValueId x = b.Call("aten::embedding", "", {{"weight", table}, {"indices", tokens}}, "embed",
                     "torch.nn.modules.sparse.Embedding");  // [b, 6, 8]
  b.Call("aten::mul_", "Scalar", {{"self", x}, {"other", c10::IValue(0.5)}});
  const ValueId batch = b.Call("aten::sym_size", "int", {{"self", x}, {"dim", c10::IValue(0)}});
  const ValueId rows = b.Call("espalier_sym::mul", "", {{"a", batch}, {"b", c10::IValue(6)}});
  x = b.Call("aten::view", "", {{"self", x}, {"size", ScalarList{{rows, int64_t{8}}}}});
  x = b.Linear("fc", x, 8, 8);
  x = b.Call("aten::view", "",
             {{"self", x}, {"size", ScalarList{{batch, int64_t{6}, int64_t{8}}}}});
  const ValueId keep = b.Call("aten::unsqueeze", "", {{"self", mask}, {"dim", c10::IValue(-1)}});
  const ValueId drop = b.Call("aten::logical_not", "", {{"self", keep}});
  x = b.Call("aten::masked_fill", "Scalar",
             {{"self", x},
              {"mask", drop},
              {"value", c10::IValue(-std::numeric_limits<double>::infinity())}});
  const auto parts = b.CallMulti(
      "aten::chunk", "", {{"self", x}, {"chunks", c10::IValue(2)}, {"dim", c10::IValue(2)}}, 2);
  x = b.Cat({parts[1], parts[0]}, 2);
  x = b.Call(
      "aten::sum", "dim_IntList",
      {{"self", x}, {"dim", Ints({1})}, {"dtype", c10::IValue(static_cast<int64_t>(at::kFloat))}});
  x = b.Call("aten::mul", "Tensor", {{"self", x}, {"other", scale}});  // [b, 8]
  const ValueId wide =
      b.Call("aten::to", "dtype",
             {{"self", x}, {"dtype", c10::IValue(static_cast<int64_t>(at::kDouble))}});
  Network net = b.Finish({wide, b.Linear("out", x, 8, 3)});
  // The head reads the tied name; the mask is not part of the state dict.
  for (Value& value : net.graph.values)
    if (value.target == "mask") value.kind = ValueKind::kBuffer;
  ParameterStore store;
  for (const std::string& name : net.store.names()) {
    if (net.store.Canonical(name) != name)
      store.Tie(name, net.store.Canonical(name));
    else
      store.Add(name, net.store.Get(name),
                name == "mask" ? StoreKind::kConstant : net.store.Kind(name));
  }
  net.store = store;
  return net;
}

}  // namespace espalier

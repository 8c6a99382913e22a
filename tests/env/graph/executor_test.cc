#include "env/graph/executor.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "env/base/error.h"
#include "env/graph/builder.h"

namespace espalier {
namespace {

/// conv 3->4, batch-norm, relu, global pool, linear 4->2.
Network TinyNet() {
  Builder b("tiny", 7);
  ValueId x = b.Input("x", {2, 3, 8, 8});
  x = b.Relu(b.BatchNorm2d("bn", b.Conv2d("conv", x, 3, 4, {.padding = 1}), 4));
  return b.Finish({b.Linear("fc", b.Flatten(b.GlobalAvgPool(x)), 4, 2)});
}

Tensor Reference(const ParameterStore& s, const Tensor& x, bool training) {
  Tensor y = at::conv2d(x, s.Get("conv.weight"), {}, {1, 1}, {1, 1});
  y = at::batch_norm(y, s.Get("bn.weight"), s.Get("bn.bias"), s.Get("bn.running_mean"),
                     s.Get("bn.running_var"), training, 0.1, 1e-5, true);
  y = at::flatten(at::adaptive_avg_pool2d(at::relu(y), {1, 1}), 1);
  return at::linear(y, s.Get("fc.weight"), s.Get("fc.bias"));
}

TEST(ExecutorUnit, RunsTheSameCallsAsDirectAten) {
  const Network net = TinyNet();
  const Tensor x = at::randn({5, 3, 8, 8});
  EXPECT_TRUE(at::equal(Forward(net, x), Reference(net.store, x, false)));
}

TEST(ExecutorUnit, TrainModeUsesBatchStatisticsAndUpdatesBuffers) {
  const Network net = TinyNet();
  const ParameterStore twin = net.store.Clone();
  const Tensor x = at::randn({5, 3, 8, 8});
  const Executor executor(net.graph);
  const Tensor y = executor.Run(executor.Bind(net.store), {x}, {.mode = Mode::kTrain}).front();
  EXPECT_TRUE(at::equal(y, Reference(twin, x, true)));
  EXPECT_TRUE(at::equal(net.store.Get("bn.running_mean"), twin.Get("bn.running_mean")));
  EXPECT_GT(net.store.Get("bn.running_mean").abs().sum().item<double>(), 0);
}

TEST(ExecutorUnit, DifferentiatesThroughTheGraph) {
  Network net = TinyNet();
  ParameterStore twin = net.store.Clone();
  net.store.SetRequiresGrad(true);
  twin.SetRequiresGrad(true);
  const Tensor x = at::randn({5, 3, 8, 8});
  const Executor executor(net.graph);
  executor.Run(executor.Bind(net.store), {x}).front().pow(2).sum().backward();
  Reference(twin, x, false).pow(2).sum().backward();
  for (const std::string name : {"conv.weight", "bn.weight", "fc.weight", "fc.bias"})
    EXPECT_TRUE(at::equal(net.store.Get(name).grad(), twin.Get(name).grad())) << name;
}

TEST(ExecutorUnit, AllGatesOfAnArgumentApply) {
  Builder b("net", 1);
  const ValueId x = b.Input("x", {2, 3});
  const ValueId first = b.Linear("first", x, 3, 2), again = b.Linear("again", x, 3, 2);
  const Network network = b.Finish({first, again});
  const Executor executor(network.graph);
  const Binding binding = executor.Bind(network.store);
  const Tensor input = at::randn({2, 3}), units = at::tensor({1.0f, 0.0f, 2.0f}),
               whole = at::tensor({0.5f}).view({1, 1});
  const int32_t one = static_cast<int32_t>(network.graph.ops.size()) - 2, two = one + 1;
  const std::vector<Gate> gates = {{one, 0, 0, 1, units},
                                   {one, 0, 0, -1, whole},
                                   {two, 0, 0, 1, units}};  // shares the first product alone
  const auto gated = executor.Run(binding, {input}, {.gates = gates});
  const auto half = executor.Run(binding, {input * units * 0.5});
  const auto unit = executor.Run(binding, {input * units});
  EXPECT_TRUE(at::allclose(gated[0], half[0]));
  EXPECT_TRUE(at::allclose(gated[1], unit[1]));
}

TEST(ExecutorUnit, GateMultipliesOneArgumentAndPassesGradients) {
  const Network net = TinyNet();
  int32_t linear = -1;
  for (size_t i = 0; i < net.graph.ops.size(); ++i)
    if (net.graph.ops[i].target() == "aten::linear") linear = static_cast<int32_t>(i);
  const Tensor gate = at::tensor({1.0f, 0.0f, 0.5f, 2.0f}).set_requires_grad(true);
  const std::vector<Gate> gates = {{linear, 0, 0, 1, gate}};
  const Tensor x = at::randn({5, 3, 8, 8});
  const Executor executor(net.graph);
  const Tensor y = executor.Run(executor.Bind(net.store), {x}, {.gates = gates}).front();
  // The same as scaling the columns of the linear weight.
  ParameterStore scaled = net.store.Clone();
  scaled.Set("fc.weight", (scaled.Get("fc.weight") * gate.detach()));
  EXPECT_TRUE(at::allclose(y, Reference(scaled, x, false), 1e-5, 1e-6));
  y.sum().backward();
  EXPECT_EQ(gate.grad().numel(), 4);
}

TEST(ExecutorUnit, RespectsInPlaceOps) {
  Builder b("inplace", 1);
  const ValueId x = b.Input("x", {2, 4});
  const ValueId y = b.Linear("fc", x, 4, 4);
  b.Call("aten::relu_", "", {{"self", y}});
  const Network net = b.Finish({b.Add(y, y)});  // reads y after the in-place relu
  const Tensor in = at::randn({3, 4});
  const Tensor z = at::relu(at::linear(in, net.store.Get("fc.weight"), net.store.Get("fc.bias")));
  EXPECT_TRUE(at::equal(Forward(net, in), z + z));
}

TEST(ExecutorUnit, ArgEditsReplaceLiterals) {
  Builder b("view", 1);
  const ValueId x = b.Input("x", {2, 6});
  const Network net = b.Finish({b.Call(
      "aten::view", "", {{"self", x}, {"size", c10::IValue(std::vector<int64_t>{-1, 6})}})});
  const Executor executor(net.graph);
  const Binding binding =
      executor.Bind(net.store, {{0, 1, c10::IValue(std::vector<int64_t>{-1, 3})}});
  EXPECT_EQ(executor.Run(binding, {at::randn({2, 6})}).front().sizes(), (at::IntArrayRef{4, 3}));
}

TEST(ExecutorUnit, IdentityScatterEqualsIndexAdd) {
  Builder b("scatter", 1);
  const ValueId x = b.Input("x", {2, 4, 3, 3});
  const ValueId index = b.Buffer("index", at::arange(4));
  const Network net =
      b.Finish({b.Call("aten::index_add", "",
                       {{"self", x}, {"dim", c10::IValue(1)}, {"index", index}, {"source", x}})});
  const Tensor in = at::randn({2, 4, 3, 3});
  EXPECT_TRUE(at::equal(Forward(net, in), in + in));
  Network partial = net;
  partial.store.Set("index", at::tensor({2, 0, 1, 3}));  // a permutation is not the identity
  EXPECT_TRUE(
      at::equal(Forward(partial, in), at::index_add(in, 1, partial.store.Get("index"), in)));
}

TEST(ExecutorUnit, ScatteringFewerChannelsEqualsIndexAddAndItsGradient) {
  Builder b("scatter", 1);
  const ValueId trunk = b.Input("trunk", {2, 6, 3, 3}), branch = b.Input("branch", {2, 2, 3, 3});
  const ValueId index = b.Buffer("index", at::tensor({4, 1}));  // channel 5 is above them all
  const Network net = b.Finish(
      {b.Call("aten::index_add", "",
              {{"self", trunk}, {"dim", c10::IValue(1)}, {"index", index}, {"source", branch}})});
  const Tensor x = at::randn({2, 6, 3, 3}), y = at::randn({2, 2, 3, 3}).requires_grad_();
  const Executor executor(net.graph);
  const Tensor sum = executor.Run(executor.Bind(net.store), {x, y}).front();
  EXPECT_TRUE(at::equal(sum, at::index_add(x, 1, net.store.Get("index"), y)));
  const Tensor slope = at::randn({2, 6, 3, 3});
  sum.backward(slope);
  EXPECT_TRUE(at::equal(y.grad(), slope.index_select(1, net.store.Get("index"))));
}

TEST(ExecutorUnit, NamesOpModuleAndShapesWhenAnOpFails) {
  const Network net = TinyNet();
  try {
    Forward(net, at::randn({1, 5, 8, 8}));
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kModel);
    EXPECT_NE(error.message().find("aten::conv2d at 'conv'"), std::string::npos) << error.message();
    EXPECT_NE(error.message().find("[1, 5, 8, 8]"), std::string::npos) << error.message();
  }
}

TEST(ExecutorUnit, InferMetaFollowsTheBatch) {
  const Network net = TinyNet();
  const auto meta = InferMeta(net, 3);
  EXPECT_EQ(meta[static_cast<size_t>(net.graph.outputs[0])].sizes, (std::vector<int64_t>{3, 2}));
}

TEST(ParameterStoreUnit, TiesShareOneTensorAndCountOnce) {
  ParameterStore store;
  store.Add("a", at::zeros({2, 3}), StoreKind::kParameter);
  store.Tie("b", "a");
  store.Add("c", at::zeros({5}), StoreKind::kBuffer);
  store.Set("b", at::ones({2, 3}));
  EXPECT_EQ(store.Get("a").sum().item<float>(), 6);
  EXPECT_EQ(store.ParameterCount(), 6);
  EXPECT_EQ(store.Canonical("b"), "a");
  const ParameterStore copy = store.Clone();
  EXPECT_EQ(copy.Get("a").data_ptr(), copy.Get("b").data_ptr());
  EXPECT_NE(copy.Get("a").data_ptr(), store.Get("a").data_ptr());
}

TEST(ParameterStoreUnit, UnknownNameSuggestsTheNearest) {
  ParameterStore store;
  store.Add("layer1.0.conv1.weight", at::zeros({1}), StoreKind::kParameter);
  try {
    store.Get("layer1.0.conv2.weight");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kModel);
    EXPECT_NE(error.hint().find("layer1.0.conv1.weight"), std::string::npos);
  }
}

TEST(BuilderUnit, UnknownArgumentAndOperatorAreErrors) {
  Builder b("bad");
  const ValueId x = b.Input("x", {1, 2});
  EXPECT_THROW(b.Call("aten::no_such_op", "", {{"self", x}}), Error);
  EXPECT_THROW(b.Call("aten::relu", "", {{"self", x}, {"slope", c10::IValue(1)}}), Error);
  EXPECT_THROW(b.Call("aten::relu", "", {}), Error);
}

TEST(BuilderUnit, WeightsDependOnSeedAndNameOnly) {
  Builder one("one", 3), two("two", 3);
  one.Linear("extra", one.Input("x", {1, 4}), 4, 4);
  one.Linear("fc", 0, 4, 4);
  const ValueId y = two.Linear("fc", two.Input("x", {1, 4}), 4, 4);
  const Network a = one.Finish({0});
  const Network b = two.Finish({y});
  EXPECT_TRUE(at::equal(a.store.Get("fc.weight"), b.store.Get("fc.weight")));
}

}  // namespace
}  // namespace espalier

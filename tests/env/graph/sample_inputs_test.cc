#include "env/graph/sample_inputs.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "env/graph/builder.h"
#include "tests/env/graph/io_testing.h"

namespace espalier {
namespace {

using testing::HasSubstr;

/// tokens [b, 5] into a table of 7 rows, values [b, 4] beside them.
Network TwoInputs() {
  Builder b("two", 1);
  const ValueId ids = b.Input("ids", {2, 5}, at::kLong);
  const ValueId values = b.Input("values", {2, 4});
  const ValueId table = b.Parameter("table", at::randn({7, 4}));
  const ValueId flat =
      b.Call("aten::view", "", {{"self", ids}, {"size", c10::IValue(c10::List<int64_t>({-1}))}});
  const ValueId rows = b.Call("aten::embedding", "", {{"weight", table}, {"indices", flat}});
  return b.Finish({rows, b.Relu(values)});
}

TEST(SampleInputsUnit, IntegersStayBelowTheTableTheyIndex) {
  const Network net = TwoInputs();
  EXPECT_EQ(IndexBounds(net), (std::vector<int64_t>{7, 0}));
  const auto inputs = SampleInputs(net, 3);
  EXPECT_EQ(inputs[0].sizes(), (at::IntArrayRef{3, 5}));
  EXPECT_EQ(inputs[1].sizes(), (at::IntArrayRef{3, 4}));
  EXPECT_GE(inputs[0].min().item<int64_t>(), 0);
  EXPECT_LT(inputs[0].max().item<int64_t>(), 7);
  EXPECT_GT(inputs[0].max().item<int64_t>(), 0);  // not one row only
}

TEST(SampleInputsUnit, SamplesAreRepeatedAlongTheBatchAndCopied) {
  Network net = TwoInputs();
  const Tensor ids = at::tensor({1, 2, 3, 4, 5, 6, 0, 1, 2, 3}, at::kLong).view({2, 5});
  SetSampleInputs(net, {{"ids", ids}});
  const auto inputs = SampleInputs(net, 3);
  EXPECT_TRUE(at::equal(inputs[0], at::cat({ids, ids.narrow(0, 0, 1)})));
  SampleInputs(net, 2)[0].zero_();
  EXPECT_TRUE(at::equal(SampleInputs(net, 2)[0], ids));
}

TEST(SampleInputsUnit, OpenSizesFollowTheSampleAndTheBatch) {
  Network net = TwoInputs();
  net.graph.symbols = {{"s0", 2}, {"s1", 5}};
  net.graph.batch_symbol = "s0";
  net.graph.inputs[0].size_expressions = {"s0", "s1"};
  net.graph.inputs[1].size_expressions = {"Mul(Integer(2), s0)", ""};
  EXPECT_EQ(SampleInputs(net, 3)[1].sizes(), (at::IntArrayRef{6, 4}));
  SetSampleInputs(net, {{"in0", at::zeros({1, 9}, at::kLong)}});
  EXPECT_EQ(SampleInputs(net, 4)[0].sizes(), (at::IntArrayRef{4, 9}));
}

TEST(SampleInputsUnit, SamplesThatDoNotFitAreRefused) {
  Network net = TwoInputs();
  const auto error = [&](const std::string& name, const Tensor& tensor) {
    return ModelErrorOf([&] { SetSampleInputs(net, {{name, tensor}}); });
  };
  EXPECT_THAT(error("id", at::zeros({2, 5}, at::kLong)), HasSubstr("did you mean 'ids'"));
  EXPECT_THAT(error("ids", at::zeros({2, 5})), HasSubstr("the network takes Long"));
  EXPECT_THAT(error("ids", at::zeros({2}, at::kLong)), HasSubstr("its sizes are"));
  EXPECT_THAT(error("ids", at::zeros({2, 6}, at::kLong)), HasSubstr("fixed at 5"));
}

TEST(SampleInputsUnit, NoiseIsSeededAndKeepsDtypes) {
  const Network net = TwoInputs();
  const auto a = RandomInputs(net, 2, 1), b = RandomInputs(net, 2, 1), c = RandomInputs(net, 2, 2);
  EXPECT_TRUE(at::equal(a[1], b[1]));
  EXPECT_FALSE(at::equal(a[1], c[1]));
  EXPECT_EQ(a[0].scalar_type(), at::kLong);
}

TEST(ExecutorInputsUnit, InPlaceOperatorsDoNotChangeTheCallersTensors) {
  Builder b("inplace", 1);
  const ValueId x = b.Input("x", {2, 3});
  const ValueId view = b.Call("aten::reshape", "",
                              {{"self", x}, {"shape", c10::IValue(c10::List<int64_t>({3, -1}))}});
  const ValueId y = b.Call("aten::relu_", "", {{"self", view}});
  const Network net = b.Finish({y, x});
  const Tensor input = at::full({2, 3}, -1.0);
  const Executor executor(net.graph);
  const auto outputs = executor.Run(executor.Bind(net.store), {input});
  EXPECT_EQ(input.sum().item<double>(), -6);
  EXPECT_EQ(outputs[1].sum().item<double>(), 0);  // inside the network the overwrite is seen
}

TEST(ExecutorInputsUnit, DeviceLiteralsGiveWayToTheStoredTensors) {
  Builder b("device", 1);
  const ValueId x = b.Input("x", {2, 3});
  const ValueId w = b.Parameter("w", at::ones({3}));
  const ValueId r =
      b.Call("aten::arange", "",
             {{"end", c10::IValue(3)}, {"device", c10::IValue(at::Device(at::kCUDA, 0))}});
  const ValueId sum =
      b.Call("aten::add", "Tensor",
             {{"self", b.Call("aten::mul", "Tensor", {{"self", x}, {"other", w}})}, {"other", r}});
  const Network net = b.Finish({sum});  // exported on a GPU, run on a machine that may have none
  EXPECT_EQ(Forward(net, at::zeros({2, 3})).sum().item<double>(), 6);
}

}  // namespace
}  // namespace espalier

#include "env/graph/trace.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/module.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/dropout.h>
#include <torch/nn/modules/linear.h>

#include "env/graph/executor.h"
#include "env/space/space.h"
#include "tests/env/graph/io_testing.h"

namespace espalier {
namespace {

using testing::HasSubstr;

/// conv - bn - relu - residual conv - pool - linear, with the batch read as a plain C++ number.
struct TinyNet : torch::nn::Module {
  TinyNet() {
    stem = register_module(
        "stem", torch::nn::Sequential(
                    torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 8, 3).padding(1).bias(false)),
                    torch::nn::BatchNorm2d(8)));
    conv = register_module("conv", torch::nn::Conv2d(torch::nn::Conv2dOptions(8, 8, 1)));
    drop = register_module("drop", torch::nn::Dropout(0.5));
    fc = register_module("fc", torch::nn::Linear(8 * 4, 5));
    const at::NoGradGuard no_grad;
    stem[1]->named_buffers()["running_var"].fill_(3);
  }
  Tensor forward(const Tensor& x) {
    Tensor y = stem->forward(x).relu();
    y = conv->forward(y) + y;
    y = at::adaptive_avg_pool2d(drop->forward(y), {2, 2}).flatten(1);
    return fc->forward(y).view({1, x.size(0) * 5 + 0}).view({x.size(0), 5});
  }
  torch::nn::Sequential stem;
  torch::nn::Conv2d conv{nullptr};
  torch::nn::Dropout drop{nullptr};
  torch::nn::Linear fc{nullptr};
};

TEST(TraceUnit, AModuleGivesANetworkWithItsNamesAndAFreeBatch) {
  TinyNet module;
  const Network net = TraceModule(
      "tiny", module, [&](const auto& x) { return std::vector<Tensor>{module.forward(x[0])}; },
      {{"", at::zeros({1, 3, 8, 8})}});
  for (const auto& parameter : module.named_parameters())
    EXPECT_TRUE(at::equal(net.store.Get(parameter.key()), parameter.value())) << parameter.key();
  EXPECT_EQ(net.store.Kind("stem.1.running_var"), StoreKind::kBuffer);
  EXPECT_TRUE(net.graph.inputs.at(0).dynamic_batch);
  const at::NoGradGuard no_grad;
  for (const int64_t batch : {1, 3, 6}) {
    const Tensor x = at::randn({batch, 3, 8, 8});
    EXPECT_TRUE(at::allclose(Forward(net, x), module.forward(x), 1e-5, 1e-6)) << batch;
  }
  bool found = false;
  for (const Op& op : net.graph.ops)
    if (op.target() == "aten::conv2d" && op.module_path == "stem.0")
      found = op.module_type == "torch::nn::Conv2dImpl";
  EXPECT_TRUE(found);
}

TEST(TraceUnit, TheTracedNetworkHasItsGroups) {
  TinyNet module;
  const Network net = TraceModule(
      "tiny", module, [&](const auto& x) { return std::vector<Tensor>{module.forward(x[0])}; },
      {{"", at::zeros({1, 3, 8, 8})}});
  const Space space = BuildSpace(net);
  ASSERT_EQ(space.groups().size(), 1u);  // the residual ties stem and conv
  EXPECT_EQ(space.groups()[0].units, 8);
}

TEST(TraceUnit, AFunctionOfTwoInputs) {
  const Tensor weight = at::randn({4, 3});
  const Network net = TraceFunction(
      "scaled",
      [&](const auto& in) { return std::vector<Tensor>{at::linear(in[0], weight) * in[1]}; },
      {{"w", weight, StoreKind::kParameter, ""}},
      {{"a", at::zeros({2, 3})}, {"b", at::zeros({2, 1})}});
  const at::NoGradGuard no_grad;
  const Executor executor(net.graph);
  const Tensor a = at::randn({3, 3}), b = at::randn({3, 1});
  EXPECT_TRUE(
      at::equal(executor.Run(executor.Bind(net.store), {a, b}).front(), at::linear(a, weight) * b));
}

TEST(TraceUnit, WhatFollowsTheBatchOtherThanLinearlyIsRefused) {
  EXPECT_THAT(ModelErrorOf([] {
                TraceFunction(
                    "odd",
                    [](const auto& in) {
                      return std::vector<Tensor>{in[0].size(0) > 3 ? in[0].relu() : in[0].tanh()};
                    },
                    {}, {{"", at::zeros({2, 3})}});
              }),
              HasSubstr("depends on the batch"));
}

}  // namespace
}  // namespace espalier

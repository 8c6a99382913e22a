#include "criteria/sample_gradients.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <functional>

#include "criteria/statistics.h"
#include "env/graph/builder.h"
#include "tests/support/calibrated_network.h"

namespace espalier::internal {
namespace {

struct Found {
  Gradients gradients;
  bool together = false;
};

/// Gradients of all float parameters for every sample, in double: as a whole batch, or one batch a
/// sample.
Found Collect(const Network& network, const Batch& batch, bool whole, bool convolutions = true) {
  ParameterStore store = network.store.Clone();
  std::map<std::string, Tensor> leaves;
  for (const std::string& name : store.CanonicalNames()) {
    if (!store.Get(name).is_floating_point()) continue;
    store.Set(name, store.Get(name).to(at::kDouble));
    if (store.Kind(name) == StoreKind::kParameter)
      leaves[name] = store.Get(name).set_requires_grad(true);
  }
  const Executor executor(network.graph);
  SampleGradients samples(executor, store, leaves, convolutions);
  std::map<std::string, std::vector<Tensor>> parts;
  const auto take = [&](const Gradients& gradients) {
    EXPECT_EQ(gradients.size(), leaves.size());
    for (const auto& [name, gradient] : gradients) parts[name].push_back(gradient.clone());
  };
  const Binding binding = executor.Bind(store);
  if (whole) {
    samples.Each(binding, batch, CrossEntropy, take);
  } else {
    for (int64_t s = 0; s < batch.size(); ++s)
      samples.Each(binding, {{batch.inputs[0].narrow(0, s, 1)}, {batch.targets[0].narrow(0, s, 1)}},
                   CrossEntropy, take);
  }
  Found found{{}, samples.together()};
  for (const auto& [name, gradient] : parts) found.gradients[name] = at::cat(gradient);
  return found;
}

Batch Made(at::IntArrayRef sizes, at::IntArrayRef targets, uint64_t seed) {
  Rng rng(seed, 0, "batch");
  const Tensor classes = at::empty(targets, at::kLong);
  for (int64_t i = 0; i < classes.numel(); ++i)
    classes.view(-1)[i] = static_cast<int64_t>(rng.Index(3));
  return {{RandomTensor(rng, sizes).to(at::kDouble)}, {classes}};
}

void ExpectSame(const Network& network, const Batch& batch, bool together = true) {
  const Found fast = Collect(network, batch, true), one = Collect(network, batch, false);
  EXPECT_EQ(fast.together, together);
  EXPECT_FALSE(one.together) << "a batch of one is no batch";
  ASSERT_FALSE(one.gradients.empty());
  for (const auto& [name, gradient] : one.gradients) {
    EXPECT_GT(gradient.abs().max().item<double>(), 0) << name;
    EXPECT_TRUE(at::allclose(fast.gradients.at(name), gradient, 1e-9, 1e-12)) << name;
  }
}

TEST(SampleGradientsProperty, ConvolutionsOfAllKinds) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(seed);
    Builder b("convolutions", seed);
    ValueId x = b.Input("x", {2, 3, 9, 9});
    x = b.Relu(b.BatchNorm2d("bn", b.Conv2d("a", x, 3, 8, {.padding = 1, .bias = true}), 8));
    const ValueId y = b.Conv2d("depthwise", x, 8, 8, {.padding = 1, .groups = 8});
    x = b.Relu(b.Add(x, b.Conv2d("one", y, 8, 8, {.kernel = 1})));
    x = b.Relu(
        b.Conv2d("grouped", x, 8, 6, {.stride = 2, .padding = 1, .groups = 2, .bias = true}));
    const Network network = b.Finish({b.Linear("fc", b.Flatten(x), 6 * 25, 3)});
    ExpectSame(network, Made({7, 3, 9, 9}, {7}, seed));
    EXPECT_FALSE(Collect(network, Made({7, 3, 9, 9}, {7}, seed), true, false).together);
  }
}

TEST(SampleGradientsProperty, NormsProductsAndSumsOverTokens) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(seed);
    Rng rng(seed, 0, "tokens");
    Builder b("tokens", seed);
    ValueId x = b.Linear("embed", b.Input("x", {2, 5, 4}), 4, 8);
    x = b.Add(x, b.Parameter("position", RandomTensor(rng, {1, 5, 8})));
    const ValueId scale = b.Parameter("norm.weight", RandomTensor(rng, {8}));
    const ValueId shift = b.Parameter("norm.bias", RandomTensor(rng, {8}));
    const std::vector<int64_t> shape = {8};
    x = b.Call("aten::layer_norm", "",
               {{"input", x},
                {"normalized_shape", c10::IValue(shape)},
                {"weight", scale},
                {"bias", shift}});
    x = b.Call("aten::mul", "Tensor",
               {{"self", x}, {"other", b.Parameter("layer_scale", RandomTensor(rng, {8}))}});
    const Network network = b.Finish({b.Linear("head", b.Relu(x), 8, 3)});
    ExpectSame(network, Made({6, 5, 4}, {6, 5}, seed));
  }
}

TEST(SampleGradientsUnit, TablesAndRmsNorms) {
  for (const bool with_eps : {false, true}) {
    Rng rng(3);
    Builder b("language", 3);
    const ValueId tokens = b.Input("tokens", {2, 5}, at::kLong);
    const ValueId table = b.Parameter("table", RandomTensor(rng, {4, 6}));
    ValueId x = b.Call("aten::embedding", "", {{"weight", table}, {"indices", tokens}});
    const std::vector<int64_t> shape = {6};
    x = b.Call("aten::rms_norm", "",
               {{"input", x},
                {"normalized_shape", c10::IValue(shape)},
                {"weight", b.Parameter("norm.weight", RandomTensor(rng, {6}))},
                {"eps", with_eps ? c10::IValue(0.1) : c10::IValue()}});
    Batch batch = Made({7, 5}, {7, 5}, 1);
    batch.inputs[0] = batch.targets[0].roll(1, 1);  // words 0 to 2: some of them twice
    const Network network = b.Finish({b.Linear("head", x, 6, 3)});
    const Found fast = Collect(network, batch, true), one = Collect(network, batch, false);
    EXPECT_TRUE(fast.together);
    for (const auto& [name, gradient] : one.gradients)
      EXPECT_TRUE(at::allclose(fast.gradients.at(name), gradient, 1e-9, 1e-12)) << name;
  }
}

TEST(SampleGradientsUnit, ALayerThatIsReadTwiceAddsUp) {
  Builder b("twice", 1);
  const ValueId x = b.Input("x", {2, 4});
  const ValueId weight = b.Parameter("shared", RandomTensor(*std::make_unique<Rng>(1), {4, 4}));
  const ValueId once = b.Call("aten::linear", "", {{"input", x}, {"weight", weight}});
  const ValueId twice = b.Call("aten::linear", "", {{"input", b.Relu(once)}, {"weight", weight}});
  ExpectSame(b.Finish({b.Linear("fc", twice, 4, 3)}), Made({5, 4}, {5}, 1));
}

TEST(SampleGradientsUnit, OperatorsThatWriteInPlaceAreFollowed) {
  Builder b("in_place", 1);
  ValueId x = b.Conv2d("conv", b.Input("x", {2, 3, 5, 5}), 3, 4, {});
  x = b.Call("aten::relu_", "", {{"self", b.BatchNorm2d("bn", x, 4)}});
  ExpectSame(b.Finish({b.Linear("fc", b.Flatten(b.GlobalAvgPool(x)), 4, 3)}),
             Made({5, 3, 5, 5}, {5}, 1));
}

TEST(SampleGradientsUnit, WhatIsReadInUnknownWaysIsTakenOneByOne) {
  Builder b("matmul", 1);
  Rng rng(1);
  const ValueId table = b.Parameter("table", RandomTensor(rng, {4, 6}));
  const ValueId x = b.Call("aten::matmul", "", {{"self", b.Input("x", {2, 4})}, {"other", table}});
  ExpectSame(b.Finish({b.Linear("fc", b.Relu(x), 6, 3)}), Made({5, 4}, {5}, 1), /*together=*/false);
}

TEST(SampleGradientsUnit, SamplesOnAnotherAxisAreNoticed) {
  // [B, T, 4] -> [T, B, 4]: with as many samples as tokens the sizes say nothing.
  Builder b("transposed", 1);
  const auto swap = [&](ValueId x) {
    return b.Call("aten::transpose", "int",
                  {{"self", x}, {"dim0", c10::IValue(0)}, {"dim1", c10::IValue(1)}});
  };
  const ValueId x = b.Linear("in", swap(b.Input("x", {2, 2, 4})), 4, 5);
  const Network network = b.Finish({b.Linear("out", swap(b.Relu(x)), 5, 3)});
  ExpectSame(network, Made({2, 2, 4}, {2, 2}, 1), /*together=*/false);
  ExpectSame(network, Made({3, 2, 4}, {3, 2}, 1), /*together=*/false);
}

}  // namespace
}  // namespace espalier::internal

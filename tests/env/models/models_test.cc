#include "env/models/models.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <set>

#include "env/base/error.h"
#include "env/graph/executor.h"
#include "env/graph/io.h"
#include "tests/env/graph/io_testing.h"

namespace espalier {
namespace {

int64_t ParameterCount(const std::string& name, const ModelOptions& options = {}) {
  return BuildModel(name, options).store.ParameterCount();
}

ErrorKind KindOf(const std::function<void()>& call, std::string* text = nullptr) {
  try {
    call();
  } catch (const Error& error) {
    if (text) *text = error.message() + " | " + error.hint();
    return error.kind();
  }
  ADD_FAILURE() << "nothing was thrown";
  return ErrorKind::kInternal;
}

TEST(BuiltinModelsUnit, ListsEveryNetworkOnceWithSummaryAndSource) {
  const std::vector<std::string> expected = {
      "resnet20",       "resnet32",       "resnet44",     "resnet56",        "resnet110",
      "vgg16_bn_cifar", "vgg19_bn_cifar", "densenet40",   "googlenet_cifar", "resnet18",
      "resnet34",       "resnet50",       "mobilenet_v2", "vgg16_bn"};
  std::vector<std::string> names;
  for (const ModelInfo& info : BuiltinModels()) {
    names.push_back(info.name);
    EXPECT_FALSE(info.summary.empty());
    EXPECT_FALSE(info.source.empty());
  }
  EXPECT_EQ(names, expected);
}

TEST(CifarResnetUnit, ParameterCountsAreTheClosedForm) {
  // n blocks a stage of widths w = 16, 32, 64. Convolutions: stem 3*16*9 = 432; stage 1: 2n *
  // 16*16*9; later stages: w/2 * w * 9 + (2n - 1) * w*w*9. Batch norms: 2 * (16 + 2n * (16 + 32 +
  // 64)). Linear: 64 * 10 + 10.
  const auto closed = [](int64_t n) {
    int64_t count = 432 + 2 * n * 16 * 16 * 9 + 650 + 2 * (16 + 2 * n * 112);
    for (const int64_t w : {32, 64}) count += w / 2 * w * 9 + (2 * n - 1) * w * w * 9;
    return count;
  };
  EXPECT_EQ(ParameterCount("resnet20"), closed(3));
  EXPECT_EQ(ParameterCount("resnet32"), closed(5));
  EXPECT_EQ(ParameterCount("resnet44"), closed(7));
  EXPECT_EQ(ParameterCount("resnet56"), closed(9));
  EXPECT_EQ(ParameterCount("resnet110"), closed(18));
  EXPECT_EQ(closed(9), 853018);  // AutoBot's figure
}

TEST(CifarResnetUnit, ProjectionAddsTwoConvolutionsAndNorms) {
  // 16*32 + 2*32 and 32*64 + 2*64 more than option A.
  EXPECT_EQ(ParameterCount("resnet56", {.shortcut = "projection"}), 853018 + 512 + 64 + 2048 + 128);
}

TEST(BuiltinModelsUnit, ParameterCountsOfThePapersAndOfTorchvision) {
  EXPECT_EQ(ParameterCount("vgg16_bn_cifar"), 14991946);
  EXPECT_EQ(ParameterCount("vgg19_bn_cifar", {.classes = 100}), 20086692);
  EXPECT_EQ(ParameterCount("densenet40"), 1059298);
  EXPECT_EQ(ParameterCount("googlenet_cifar"), 6166250);
  EXPECT_EQ(ParameterCount("resnet18"), 11689512);
  EXPECT_EQ(ParameterCount("resnet34"), 21797672);
  EXPECT_EQ(ParameterCount("resnet50"), 25557032);
  EXPECT_EQ(ParameterCount("mobilenet_v2"), 3504872);
  EXPECT_EQ(ParameterCount("vgg16_bn"), 138365992);
}

TEST(CifarResnetUnit, NamesAreThoseOfTheSharedWeights) {
  const Network network = BuildModel("resnet20");
  for (const char* name : {"conv1.weight", "bn1.running_var", "layer1.0.conv1.weight",
                           "layer3.2.bn2.bias", "linear.weight", "linear.bias"})
    EXPECT_TRUE(network.store.Has(name)) << name;
  EXPECT_FALSE(network.store.Has("layer2.0.shortcut.0.weight"));
  const Network projected = BuildModel("resnet20", {.shortcut = "projection"});
  EXPECT_TRUE(projected.store.Has("layer2.0.shortcut.0.weight"));
  EXPECT_TRUE(projected.store.Has("layer3.0.shortcut.1.running_mean"));
}

TEST(CifarResnetUnit, OptionAShortcutKeepsEverySecondPixelBetweenZeroChannels) {
  const Network network = BuildModel("resnet20");
  const Executor executor(network.graph);
  Tensor input, padded;
  std::vector<Tap> taps;
  for (const Op& op : network.graph.ops) {
    if (op.module_path != "layer2.0.shortcut") continue;
    if (op.target() == "aten::slice.Tensor" && op.Constant("dim").toInt() == 2)
      taps.push_back({op.ValueArg("self"), [&](const Tensor& value) { input = value; }});
    if (op.target() == "aten::constant_pad_nd")
      taps.push_back({op.outputs.front(), [&](const Tensor& value) { padded = value; }});
  }
  ASSERT_EQ(taps.size(), 2U);
  executor.Run(executor.Bind(network.store), {at::ones({1, 3, 32, 32})}, {.taps = taps});
  ASSERT_EQ(padded.sizes(), at::IntArrayRef({1, 32, 16, 16}));
  for (int64_t channel = 0; channel < 32; ++channel)
    for (int64_t y = 0; y < 16; ++y)
      for (int64_t x = 0; x < 16; ++x) {
        const bool inside = channel >= 8 && channel < 24;
        const float expected = inside ? input[0][channel - 8][2 * y][2 * x].item<float>() : 0.0F;
        ASSERT_EQ(padded[0][channel][y][x].item<float>(), expected)
            << channel << ' ' << y << ' ' << x;
      }
}

TEST(BuiltinModelsUnit, SeedDecidesTheWeights) {
  EXPECT_EQ(BuildModel("resnet20", {.seed = 3}).WeightsHash(),
            BuildModel("resnet20", {.seed = 3}).WeightsHash());
  EXPECT_NE(BuildModel("resnet20", {.seed = 3}).WeightsHash(),
            BuildModel("resnet20", {.seed = 4}).WeightsHash());
}

TEST(BuiltinModelsUnit, InitialSpreadsAreTheAuthors) {
  // He et al. 2015: standard deviation sqrt(2 / fan_in), fan_in = 64 * 9 and 64.
  const Network cifar = BuildModel("resnet56");
  EXPECT_NEAR(cifar.store.Get("layer3.8.conv2.weight").std().item<double>(), std::sqrt(2.0 / 576),
              1e-3);  // 36,864 draws: error of the estimate 2e-4
  // torchvision: sqrt(2 / fan_out) for convolutions, 0.01 for MobileNetV2's classifier.
  const Network mobile = BuildModel("mobilenet_v2");
  EXPECT_NEAR(mobile.store.Get("features.18.0.weight").std().item<double>(), std::sqrt(2.0 / 1280),
              1e-4);  // 409,600 draws
  EXPECT_NEAR(mobile.store.Get("classifier.1.weight").std().item<double>(), 0.01, 1e-4);
  EXPECT_EQ(mobile.store.Get("classifier.1.bias").abs().max().item<double>(), 0);
}

TEST(BuiltinModelsUnit, UnknownNamesAndOptionsAreRefused) {
  std::string text;
  EXPECT_EQ(KindOf([] { BuildModel("resnet65"); }, &text), ErrorKind::kModel);
  EXPECT_NE(text.find("resnet56"), std::string::npos) << text;
  EXPECT_EQ(KindOf([] { BuildModel("resnet20", {.shortcut = "B"}); }), ErrorKind::kModel);
  EXPECT_EQ(KindOf([] { BuildModel("resnet18", {.shortcut = "projection"}); }), ErrorKind::kModel);
  EXPECT_EQ(KindOf([] { BuildModel("resnet20", {.classes = -1}); }), ErrorKind::kModel);
  EXPECT_EQ(KindOf([] { BuildModel("vgg16_bn_cifar", {.input_size = 15}); }, &text),
            ErrorKind::kModel);
  EXPECT_NE(text.find(">= 16"), std::string::npos) << text;
}

/// The value that holds the stem's weight: a gradient there has passed through the whole network.
size_t FirstWeight(const Network& network) {
  return static_cast<size_t>(network.graph.ops.front().ValueArg("weight"));
}

class BuiltinModelConformance : public testing::TestWithParam<std::string> {};

TEST_P(BuiltinModelConformance, MapsImagesToClassScoresAtTwoBatchSizes) {
  const ModelInfo& info = FindModel(GetParam());
  const int64_t size = std::max<int64_t>(32, info.least_input_size);  // small, for speed
  const Network network = BuildModel(GetParam(), {.classes = 7, .input_size = size});
  EXPECT_EQ(network.name, GetParam());
  EXPECT_EQ(network.store.Get(info.head).size(0), 7);
  const Tensor input = at::linspace(-1, 1, 2 * 3 * size * size).view({2, 3, size, size});
  const Tensor both = Forward(network, input);
  ASSERT_EQ(both.sizes(), at::IntArrayRef({2, 7}));
  EXPECT_TRUE(at::isfinite(both).all().item<bool>());
  const Tensor second = Forward(network, input.narrow(0, 1, 1));
  // Relative to the largest score: untrained residual networks blow activations up, then cancel.
  const double error = (both.narrow(0, 1, 1) - second).abs().max().item<double>();
  EXPECT_LE(error, 1e-5 * both.abs().max().item<double>());
}

TEST_P(BuiltinModelConformance, AcceptsItsLeastInputSize) {
  const ModelInfo& info = FindModel(GetParam());
  const Network network = BuildModel(GetParam(), {.input_size = info.least_input_size});
  const Tensor output =
      Forward(network, at::ones({1, 3, info.least_input_size, info.least_input_size}));
  EXPECT_EQ(output.sizes(), at::IntArrayRef({1, info.classes}));
}

TEST_P(BuiltinModelConformance, ArchiveBringsTheSameNetworkBack) {
  const int64_t size = std::max<int64_t>(32, FindModel(GetParam()).least_input_size);
  const Network written = BuildModel(GetParam(), {.classes = 7, .input_size = size});
  const TempFolder folder;
  WritePt2(folder / "net.pt2", written);
  const Network read = ReadPt2(folder / "net.pt2");
  EXPECT_EQ(read.WeightsHash(), written.WeightsHash());
  ASSERT_EQ(read.graph.ops.size(), written.graph.ops.size());
  for (size_t i = 0; i < read.graph.ops.size(); ++i) {
    EXPECT_EQ(read.graph.ops[i].target(), written.graph.ops[i].target());
    EXPECT_EQ(read.graph.ops[i].module_path, written.graph.ops[i].module_path);
  }
  const Tensor input = at::linspace(-1, 1, 3 * 3 * size * size).sin().view({3, 3, size, size});
  EXPECT_TRUE(at::equal(Forward(read, input), Forward(written, input)));
}

TEST_P(BuiltinModelConformance, OneTrainingStepGivesEveryParameterAFiniteGradient) {
  const ModelInfo& info = FindModel(GetParam());
  const int64_t size = std::max<int64_t>(32, info.least_input_size);
  Network network = BuildModel(GetParam(), {.classes = 7, .input_size = size});
  network.store.SetRequiresGrad(true);
  const Executor executor(network.graph);
  const Tensor images = at::linspace(-1, 1, 4 * 3 * size * size).sin().view({4, 3, size, size});
  const Tensor labels = at::arange(4, at::kLong);
  const Tensor before = network.store.Get(info.head).detach().clone();
  const auto scores =
      executor.Run(executor.Bind(network.store), {images}, {.mode = Mode::kTrain}).front();
  at::cross_entropy_loss(scores, labels).backward();
  const at::NoGradGuard no_grad;
  for (const std::string& name : network.store.names()) {
    if (network.store.Kind(name) != StoreKind::kParameter) continue;
    const Tensor& parameter = network.store.Get(name);
    ASSERT_TRUE(parameter.grad().defined()) << name;
    EXPECT_TRUE(at::isfinite(parameter.grad()).all().item<bool>()) << name;
    parameter.sub_(parameter.grad(), 1e-3);
  }
  EXPECT_FALSE(at::equal(network.store.Get(info.head), before));
  EXPECT_GT(network.store.Get(network.graph.values[FirstWeight(network)].target)
                .grad()
                .abs()
                .max()
                .item<double>(),
            0);
}

std::vector<std::string> AllNames() {
  std::vector<std::string> names;
  for (const ModelInfo& info : BuiltinModels()) names.push_back(info.name);
  return names;
}
INSTANTIATE_TEST_SUITE_P(All, BuiltinModelConformance, testing::ValuesIn(AllNames()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace espalier

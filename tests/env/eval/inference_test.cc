#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "env/eval/evaluator.h"
#include "env/graph/builder.h"
#include "env/models/models.h"

namespace espalier {
namespace {

Tensor Normal(const std::vector<int64_t>& sizes, Rng& rng) {
  Tensor tensor = at::empty(sizes);
  auto* values = tensor.data_ptr<float>();
  for (int64_t i = 0; i < tensor.numel(); ++i) values[i] = static_cast<float>(rng.Normal());
  return tensor;
}

/// Fresh batch-norm statistics (mean 0, variance 1) would hide folding mistakes.
void RandomiseNorms(Network& network, uint64_t seed) {
  Rng rng(seed);
  for (const Op& op : network.graph.ops) {
    if (op.target() != "aten::batch_norm") continue;
    for (const char* argument : {"weight", "bias", "running_mean", "running_var"}) {
      const ValueId id = op.ValueArg(argument);
      const std::string& name = network.graph.values[static_cast<size_t>(id)].target;
      Tensor value = 0.3 * Normal(network.store.Get(name).sizes().vec(), rng);
      if (std::string(argument) == "weight") value = value + 1;
      if (std::string(argument) == "running_var") value = value.abs() + 0.5;
      network.store.Set(name, value);
    }
  }
}

/// Largest difference of fast and plain path, as a share of the largest value.
double FastError(const Network& network, const Tensor& input, const InferenceNetwork& fast) {
  const Tensor plain = Forward(network, input), quick = fast.Run(input);
  return ((plain - quick).abs().max() / plain.abs().max()).item<double>();
}

int64_t CountOps(const Network& network, const std::string& target) {
  return std::count_if(network.graph.ops.begin(), network.graph.ops.end(),
                       [&](const Op& op) { return op.target() == target; });
}

constexpr const char* kInPlace = "mkldnn::_convolution_pointwise_.binary";
constexpr const char* kOutOfPlace = "mkldnn::_convolution_pointwise.binary";
constexpr const char* kActivated = "mkldnn::_convolution_pointwise";

/// A network around one pattern: a body with 8 channels between a stem and a classifier.
class InferenceUnit : public testing::Test {
 protected:
  InferenceUnit() {
    at::set_num_threads(1);
    x_ = b_.Input("x", {2, 3, 8, 8});
    x_ = b_.Relu(b_.BatchNorm2d("bn0", b_.Conv2d("conv0", x_, 3, 8, {.padding = 1}), 8));
  }
  ValueId Branch(const std::string& name, ValueId x, int64_t in = 8, int64_t out = 8,
                 ConvOptions options = {.padding = 1}) {
    return b_.BatchNorm2d(name + ".bn", b_.Conv2d(name, x, in, out, options), out);
  }
  ValueId InPlace(const char* op, ValueId x) { return b_.Call(op, "", {{"self", x}}); }

  /// Finishes with pool and classifier, checks both paths, returns the rewritten network.
  Network Check(ValueId x, int64_t width = 8, std::vector<ValueId> more_outputs = {}) {
    x = b_.Linear("fc", b_.Flatten(b_.GlobalAvgPool(x)), width, 10);
    std::vector<ValueId> outputs = {x};
    outputs.insert(outputs.end(), more_outputs.begin(), more_outputs.end());
    Network network = b_.Finish(outputs);
    RandomiseNorms(network, 5);
    const std::string before = network.WeightsHash();
    const InferenceNetwork fast(network);
    Rng rng(3);
    for (const int64_t batch : {1, 2, 7}) {
      const Tensor input = Normal({batch, 3, 8, 8}, rng);
      const Tensor kept = input.clone();
      EXPECT_LT(FastError(network, input, fast), 1e-5) << "batch " << batch;
      EXPECT_LT(FastError(network, input, fast), 1e-5) << "a second run of batch " << batch;
      EXPECT_TRUE(at::equal(input, kept)) << "the input was overwritten";
    }
    EXPECT_EQ(network.WeightsHash(), before) << "the network was changed";
    return fast.network();
  }

  Builder b_{"pattern", 1};
  ValueId x_ = kNoValue;
};

TEST_F(InferenceUnit, ConvolutionNormReluBecomesOneOp) {
  const Network fast = Check(b_.Relu(Branch("conv1", x_)));
  EXPECT_EQ(CountOps(fast, kActivated), 2);  // stem and conv1
  EXPECT_EQ(CountOps(fast, "aten::batch_norm"), 0);
  EXPECT_EQ(CountOps(fast, "aten::relu"), 0);
}

TEST_F(InferenceUnit, Relu6AndInPlaceReluAreFusedToo) {
  const ValueId y = b_.Relu6(Branch("conv1", x_));
  const Network fast = Check(InPlace("aten::relu_", Branch("conv2", y)));
  EXPECT_EQ(CountOps(fast, kActivated), 3);
}

TEST_F(InferenceUnit, ResidualAddIsDoneInPlaceOnTheShortcut) {
  const ValueId y = Branch("conv2", b_.Relu(Branch("conv1", x_)));
  const Network fast = Check(b_.Relu(b_.Add(y, x_)));
  EXPECT_EQ(CountOps(fast, kInPlace), 1);
  EXPECT_EQ(CountOps(fast, "aten::add.Tensor"), 0);
}

TEST_F(InferenceUnit, InPlaceAddWithShortcutFirstIsFused) {
  const ValueId y = Branch("conv2", b_.Relu(Branch("conv1", x_)));
  const ValueId sum = b_.Call("aten::add_", "Tensor", {{"self", y}, {"other", x_}});
  const Network fast = Check(InPlace("aten::relu_", sum));
  EXPECT_EQ(CountOps(fast, kInPlace), 1);
}

TEST_F(InferenceUnit, AddWithoutReluIsFused) {
  const ValueId y = Branch("conv2", b_.Relu(Branch("conv1", x_)));
  const Network fast = Check(b_.Add(x_, y));
  EXPECT_EQ(CountOps(fast, kInPlace), 1);
}

TEST_F(InferenceUnit, AShortcutThatIsReadLaterIsNotOverwritten) {
  const ValueId y = Branch("conv2", b_.Relu(Branch("conv1", x_)));
  const ValueId sum = b_.Relu(b_.Add(y, x_));
  const Network fast = Check(b_.Add(sum, x_));
  EXPECT_EQ(CountOps(fast, kInPlace), 0);
  EXPECT_EQ(CountOps(fast, kOutOfPlace), 1);
}

TEST_F(InferenceUnit, AShortcutThatIsAnOutputIsNotOverwritten) {
  const ValueId y = Branch("conv2", b_.Relu(Branch("conv1", x_)));
  const Network fast = Check(b_.Relu(b_.Add(y, x_)), 8, {x_});
  EXPECT_EQ(CountOps(fast, kInPlace), 0);
}

TEST_F(InferenceUnit, AViewOfTheShortcutThatIsReadLaterKeepsIt) {
  const ValueId view = b_.Dropout(x_, 0.5);  // in eval mode: the same memory
  const ValueId y = Branch("conv2", b_.Relu(Branch("conv1", x_)));
  const ValueId sum = b_.Relu(b_.Add(y, x_));
  const Network fast = Check(b_.Add(sum, view));
  EXPECT_EQ(CountOps(fast, kInPlace), 0);
}

TEST_F(InferenceUnit, ACopyThatNothingNeedsIsDroppedAndTheReluBehindIt) {
  const ValueId copy = b_.Call("aten::clone", "", {{"self", x_}});
  const Network fast = Check(InPlace("aten::relu_", b_.Dropout(b_.Relu(copy), 0.5)));
  EXPECT_EQ(CountOps(fast, "aten::clone"), 0);
  EXPECT_EQ(CountOps(fast, "aten::relu"), 0);
  EXPECT_EQ(CountOps(fast, "aten::relu_"), 0);
  EXPECT_EQ(CountOps(fast, "aten::dropout"), 0);
}

TEST_F(InferenceUnit, ACopyStaysWhereOneOfTheTwoIsOverwrittenAndBothAreRead) {
  const ValueId copy = b_.Call("aten::clone", "", {{"self", x_}});
  const ValueId changed = InPlace("aten::sigmoid_", x_);
  const Network fast = Check(b_.Add(changed, copy));
  EXPECT_EQ(CountOps(fast, "aten::clone"), 1);
}

TEST_F(InferenceUnit, ACopyOfWhatIsReadNoMoreIsDroppedThoughItIsOverwritten) {
  const ValueId copy = b_.Call("aten::clone", "", {{"self", x_}});
  const Network fast = Check(InPlace("aten::sigmoid_", copy));
  EXPECT_EQ(CountOps(fast, "aten::clone"), 0);
}

TEST_F(InferenceUnit, AnAdditionDoesNotOverwriteWhatADroppedCopysViewStillReads) {
  const ValueId view = b_.Dropout(b_.Call("aten::clone", "", {{"self", x_}}), 0.5);
  const ValueId y = Branch("conv2", b_.Relu(Branch("conv1", x_)));
  const ValueId sum = b_.Relu(b_.Add(y, x_));
  const Network fast =
      Check(b_.Add(sum, b_.Call("aten::mul", "Tensor", {{"self", view}, {"other", view}})));
  EXPECT_EQ(CountOps(fast, kInPlace), 0);
  EXPECT_EQ(CountOps(fast, "aten::clone"), 0);
}

TEST_F(InferenceUnit, AReluOfWhatWasChangedInPlaceStays) {
  const ValueId before = b_.Relu(Branch("conv1", x_));
  b_.Call("aten::sub_", "Tensor", {{"self", before}, {"other", x_}});
  const Network fast = Check(b_.Relu(before));
  EXPECT_EQ(CountOps(fast, "aten::relu"), 1);
}

TEST_F(InferenceUnit, AConvolutionOfItsOwnShortcutIsNotInPlace) {
  const Network fast = Check(b_.Relu(b_.Add(Branch("conv1", x_), x_)));
  EXPECT_EQ(CountOps(fast, kInPlace), 0);
  EXPECT_EQ(CountOps(fast, kOutOfPlace), 1);
}

TEST_F(InferenceUnit, OfTwoConvolutionsTheLaterOneAddsIntoTheEarlier) {
  const ValueId y = Branch("conv2", b_.Relu(Branch("conv1", x_)));
  const ValueId projection = Branch("conv3", x_, 8, 8, {.kernel = 1});
  const Network fast = Check(b_.Relu(b_.Add(y, projection)));
  EXPECT_EQ(CountOps(fast, kInPlace), 1);
}

TEST_F(InferenceUnit, AnInputThatIsOverwrittenBeforeTheAddKeepsTheConvolutionWhereItIs) {
  const ValueId y = Branch("conv1", x_);
  const ValueId changed = InPlace("aten::sigmoid_", x_);  // after conv1 read it
  const Network fast = Check(b_.Relu(b_.Add(y, b_.Relu(changed))));
  EXPECT_EQ(CountOps(fast, kInPlace) + CountOps(fast, kOutOfPlace), 0);
}

TEST_F(InferenceUnit, ABroadcastAddIsLeftAlone) {
  const ValueId y = Branch("conv1", x_);
  const Network fast = Check(b_.Add(y, b_.GlobalAvgPool(x_)));
  EXPECT_EQ(CountOps(fast, "aten::add.Tensor"), 1);
}

TEST_F(InferenceUnit, AConvolutionReadTwiceIsNotFolded) {
  const ValueId y = b_.Conv2d("conv1", x_, 8, 8, {.padding = 1});
  const Network fast = Check(b_.Add(b_.BatchNorm2d("bn1", y, 8), y));
  EXPECT_EQ(CountOps(fast, "aten::batch_norm"), 1);
}

TEST_F(InferenceUnit, DepthwiseStridedAndBiasedConvolutionsAreFused) {
  ValueId y = b_.Relu6(Branch("conv1", x_, 8, 8, {.padding = 1, .groups = 8}));
  y = b_.Relu(Branch("conv2", y, 8, 12, {.stride = 2, .padding = 1, .groups = 4, .bias = true}));
  const Network fast = Check(y, 12);
  EXPECT_EQ(CountOps(fast, kActivated), 3);
}

TEST_F(InferenceUnit, NormOfALinearLayerIsFolded) {
  ValueId y = b_.Flatten(b_.GlobalAvgPool(x_));
  y = b_.Relu(b_.BatchNorm2d("bn1", b_.Linear("fc1", y, 8, 6), 6));
  const Network network = [&] {
    Network built = b_.Finish({b_.Linear("fc", y, 6, 10)});
    RandomiseNorms(built, 2);
    return built;
  }();
  const InferenceNetwork fast(network);
  Rng rng(3);
  EXPECT_LT(FastError(network, Normal({5, 3, 8, 8}, rng), fast), 1e-5);
  EXPECT_EQ(CountOps(fast.network(), "aten::batch_norm"), 0);
}

/// A branch cut to some channels, scattered into its trunk, as decoupled residuals have it.
TEST_F(InferenceUnit, AScatteredBranchIsSpreadOverItsTrunk) {
  for (const std::vector<int64_t>& kept :
       {std::vector<int64_t>{1, 4, 6}, {0, 1, 2, 3, 4, 5, 6, 7}, {5, 0, 3}}) {
    Builder b("scatter", 1);
    ValueId x = b.Input("x", {2, 3, 8, 8});
    x = b.Relu(b.BatchNorm2d("bn0", b.Conv2d("conv0", x, 3, 8, {.padding = 1}), 8));
    const auto width = static_cast<int64_t>(kept.size());
    ValueId y = b.Relu(b.BatchNorm2d("bn1", b.Conv2d("conv1", x, 8, 5, {.padding = 1}), 5));
    y = b.BatchNorm2d("bn2", b.Conv2d("conv2", y, 5, width, {.padding = 1}), width);
    const ValueId index = b.Buffer("index", at::tensor(kept, at::kLong));
    x = b.Relu(b.Call("aten::index_add", "",
                      {{"self", x}, {"dim", c10::IValue(1)}, {"index", index}, {"source", y}}));
    Network network = b.Finish({b.Linear("fc", b.Flatten(b.GlobalAvgPool(x)), 8, 10)});
    RandomiseNorms(network, 2);
    const InferenceNetwork fast(network);
    Rng rng(3);
    EXPECT_LT(FastError(network, Normal({5, 3, 8, 8}, rng), fast), 1e-5);
    EXPECT_EQ(CountOps(fast.network(), kInPlace), 1);
    EXPECT_EQ(CountOps(fast.network(), "aten::index_add"), 0);
  }
}

TEST(InferenceResnetUnit, OnlyConvolutionsShortcutsAndTheHeadAreLeft) {
  const Network network = BuildModel("resnet20");
  const InferenceNetwork fast(network);
  // 75 ops: 19 convolutions, 19 norms, 19 relus, 9 adds, 2 shortcuts of 3 ops, pool, flatten,
  // linear. Left: 19 convolutions, 6 shortcut ops, 3 of the head = 28.
  EXPECT_EQ(network.graph.ops.size(), 75U);
  EXPECT_EQ(fast.network().graph.ops.size(), 28U);
  EXPECT_EQ(fast.fused_ops(), 47);
  EXPECT_EQ(CountOps(fast.network(), kInPlace), 9);
}

TEST(InferenceResnetUnit, Bfloat16KeepsTheOutputsToItsPrecision) {
  const Network network = BuildModel("resnet20");
  const InferenceNetwork exact(network), coarse(network, at::kBFloat16);
  Rng rng(4);
  const Tensor images = Normal({4, 3, 32, 32}, rng);
  const Tensor expected = exact.Run(images), found = coarse.Run(images);
  EXPECT_EQ(found.scalar_type(), at::kBFloat16);
  const Tensor error = (found.to(at::kFloat) - expected).abs().max() / expected.abs().max();
  EXPECT_LT(error.item<double>(), 0.05);
  EXPECT_GT(error.item<double>(), 0);  // it did run in bfloat16
}

struct Case {
  const char* model;
  ModelOptions options;
};

/// The network in float64.
Network Wide(Network network) {
  for (const std::string& name : network.store.CanonicalNames())
    if (network.store.Get(name).is_floating_point())
      network.store.Set(name, network.store.Get(name).to(at::kDouble));
  return network;
}

TEST(InferenceProperty, BuiltInNetworksGiveTheSameOutputs) {
  at::set_num_threads(1);
  ModelOptions projection, small;
  projection.shortcut = "projection";
  small.input_size = 64;
  for (const Case& tested :
       {Case{"resnet20", {}}, Case{"resnet20", projection}, Case{"densenet40", {}},
        Case{"googlenet_cifar", {}}, Case{"vgg16_bn_cifar", {}}, Case{"mobilenet_v2", small},
        Case{"resnet18", small}}) {
    SCOPED_TRACE(tested.model);
    Network network = BuildModel(tested.model, tested.options);
    RandomiseNorms(network, 7);
    const InferenceNetwork fast(network);
    Rng rng(3);
    std::vector<int64_t> sizes = network.graph.inputs[0].sizes;
    sizes[0] = 3;
    const Tensor input = Normal(sizes, rng);
    const Tensor exact = Forward(Wide(network), input.to(at::kDouble));
    const auto error = [&](const Tensor& y) {
      return ((y - exact).abs().max() / exact.abs().max()).item<double>();
    };
    // Depth multiplies rounding errors: the fast path may err twice as much as the plain one.
    const double plain_error = error(Forward(network, input));
    EXPECT_LT(error(fast.Run(input)), std::max(1e-5, 2 * plain_error)) << plain_error;
    // DenseNet normalises before its convolutions: nothing to fold there.
    EXPECT_EQ(fast.fused_ops() > 0, std::string(tested.model) != "densenet40");
  }
}

}  // namespace
}  // namespace espalier

#include "env/base/error.h"
#include "env/graph/builder.h"
#include "env/models/families.h"

namespace espalier {
namespace {

constexpr int64_t kPool = 0;  // in a width list: 2x2 max pooling

const std::vector<int64_t> kWidths16 = {64,    64,  kPool, 128, 128,   kPool, 256, 256, 256,
                                        kPool, 512, 512,   512, kPool, 512,   512, 512};

ValueId ConvNormRelu(Builder& b, const std::string& conv, const std::string& norm,
                     const std::string& relu, ValueId x, int64_t in, int64_t out) {
  x = b.Conv2d(conv, x, in, out, {.padding = 1, .bias = true});
  return b.Relu(b.BatchNorm2d(norm, x, out), relu);
}

}  // namespace

/// The VGG-16 of the CIFAR pruning literature: a hidden linear layer with batch norm, and the mean
/// of the last 2x2 map in place of a fifth max pooling. The mean is a plain reduction, which the
/// thop convention does not count.
Network CifarVgg16(const ModelOptions& options) {
  Builder b("vgg16_bn_cifar", options.seed);
  ValueId x = b.Input("x", {2, 3, options.input_size, options.input_size});
  int64_t width = 3;
  for (size_t i = 0; i < kWidths16.size(); ++i) {
    const int64_t out = kWidths16[i];
    if (out == kPool) {
      x = b.MaxPool2d(x, {.kernel = 2}, Str("features.pool", i));
      continue;
    }
    x = ConvNormRelu(b, Str("features.conv", i), Str("features.norm", i), Str("features.relu", i),
                     x, width, out);
    width = out;
  }
  x = b.Call("aten::mean", "dim", {{"self", x}, {"dim", c10::IValue(std::vector<int64_t>{2, 3})}},
             "avgpool");
  x = b.Linear("classifier.linear1", x, width, 512);
  x = b.Relu(b.BatchNorm2d("classifier.norm1", x, 512), "classifier.relu1");
  return b.Finish({b.Linear("classifier.linear2", x, 512, options.classes)});
}

/// The VGG-19 of the CIFAR-100 pruning literature: five blocks, max pooling after the first three,
/// one linear layer on the mean of the last 4x4 map.
Network CifarVgg19(const ModelOptions& options) {
  const std::vector<std::pair<int64_t, int64_t>> blocks = {
      {2, 64}, {2, 128}, {4, 256}, {4, 512}, {4, 512}};  // convolutions, width
  Builder b("vgg19_bn_cifar", options.seed);
  ValueId x = b.Input("x", {2, 3, options.input_size, options.input_size});
  int64_t width = 3;
  for (size_t block = 0; block < blocks.size(); ++block) {
    const auto [convolutions, out] = blocks[block];
    const std::string path = Str("block", block, ".");
    for (int64_t i = 0; i < 3 * convolutions; i += 3) {
      x = ConvNormRelu(b, Str(path, i), Str(path, i + 1), Str(path, i + 2), x, width, out);
      width = out;
    }
    if (block < 3) x = b.MaxPool2d(x, {.kernel = 2}, Str("pool", block));
  }
  x = b.Flatten(b.GlobalAvgPool(x, "pool4"));
  return b.Finish({b.Linear("classifier", x, width, options.classes)});
}

Network ImagenetVgg16(const ModelOptions& options) {
  Builder b("vgg16_bn", options.seed, Init::kKaimingNormalFanOut);
  ValueId x = b.Input("x", {2, 3, options.input_size, options.input_size});
  int64_t width = 3, index = 0;
  std::vector<int64_t> widths = kWidths16;
  widths.push_back(kPool);
  for (const int64_t out : widths) {
    if (out == kPool) {
      x = b.MaxPool2d(x, {.kernel = 2}, Str("features.", index++));
      continue;
    }
    x = ConvNormRelu(b, Str("features.", index), Str("features.", index + 1),
                     Str("features.", index + 2), x, width, out);
    index += 3;
    width = out;
  }
  x = b.Flatten(b.AdaptiveAvgPool2d(x, 7, "avgpool"));
  x = b.Relu(b.Linear("classifier.0", x, width * 7 * 7, 4096), "classifier.1");
  x = b.Dropout(x, 0.5, "classifier.2");
  x = b.Relu(b.Linear("classifier.3", x, 4096, 4096), "classifier.4");
  x = b.Dropout(x, 0.5, "classifier.5");
  Network network = b.Finish({b.Linear("classifier.6", x, 4096, options.classes)});
  InitLinears(network, 0.01, options.seed);
  return network;
}

}  // namespace espalier

#include "env/base/error.h"
#include "env/graph/builder.h"
#include "env/models/families.h"

namespace espalier {
namespace {

constexpr int64_t kGrowth = 12;
constexpr int64_t kLayersPerBlock = 12;  // (40 - 4) / 3

ValueId NormRelu(Builder& b, const std::string& norm, const std::string& relu, ValueId x,
                 int64_t width) {
  return b.Relu(b.BatchNorm2d(norm, x, width), relu);
}

/// Batch norm, ReLU, convolution; the new maps are appended to all earlier ones of the block.
ValueId DenseLayer(Builder& b, const std::string& path, ValueId x, int64_t width) {
  const ValueId y = NormRelu(b, path + ".bn1", path + ".relu", x, width);
  return b.Cat({x, b.Conv2d(path + ".conv1", y, width, kGrowth, {.padding = 1})}, 1, path);
}

ValueId Transition(Builder& b, const std::string& path, ValueId x, int64_t width) {
  x = NormRelu(b, path + ".bn1", path + ".relu", x, width);
  x = b.Conv2d(path + ".conv1", x, width, width, {.kernel = 1});
  return b.AvgPool2d(x, {.kernel = 2}, path);
}

}  // namespace

Network CifarDensenet40(const ModelOptions& options) {
  Builder b("densenet40", options.seed, Init::kKaimingNormalFanOut);
  ValueId x = b.Input("x", {2, 3, options.input_size, options.input_size});
  int64_t width = 2 * kGrowth;
  x = b.Conv2d("conv1", x, 3, width, {.padding = 1});
  for (const int64_t block : {1, 2, 3}) {
    for (int64_t layer = 0; layer < kLayersPerBlock; ++layer, width += kGrowth)
      x = DenseLayer(b, Str("dense", block, ".", layer), x, width);
    if (block < 3) x = Transition(b, Str("trans", block), x, width);
  }
  x = NormRelu(b, "bn", "relu", x, width);
  x = b.AvgPool2d(x, {.kernel = options.input_size / 2 / 2}, "avgpool");  // the whole map: 8x8
  return b.Finish({b.Linear("fc", b.Flatten(x), width, options.classes)});
}

}  // namespace espalier

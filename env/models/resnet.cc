#include "env/base/error.h"
#include "env/graph/builder.h"
#include "env/models/families.h"

namespace espalier {
namespace {

constexpr int64_t kExpansion = 4;  // a bottleneck's output over its inner width

ValueId ConvNorm(Builder& b, const std::string& path, const std::string& number, ValueId x,
                 int64_t in, int64_t out, const ConvOptions& options) {
  x = b.Conv2d(path + ".conv" + number, x, in, out, options);
  return b.BatchNorm2d(path + ".bn" + number, x, out);
}

ValueId BasicBranch(Builder& b, const std::string& path, ValueId x, int64_t in, int64_t width,
                    int64_t stride) {
  x = ConvNorm(b, path, "1", x, in, width, {.stride = stride, .padding = 1});
  return ConvNorm(b, path, "2", b.Relu(x, path + ".relu"), width, width, {.padding = 1});
}

/// The stride sits in the 3x3 convolution, as in torchvision ("ResNet v1.5").
ValueId BottleneckBranch(Builder& b, const std::string& path, ValueId x, int64_t in, int64_t width,
                         int64_t stride) {
  const std::string relu = path + ".relu";
  x = ConvNorm(b, path, "1", x, in, width, {.kernel = 1});
  x = ConvNorm(b, path, "2", b.Relu(x, relu), width, width, {.stride = stride, .padding = 1});
  return ConvNorm(b, path, "3", b.Relu(x, relu), width, width * kExpansion, {.kernel = 1});
}

}  // namespace

Network ImagenetResnet(const std::string& name, const std::vector<int64_t>& blocks, bool bottleneck,
                       const ModelOptions& options) {
  Builder b(name, options.seed, Init::kKaimingNormalFanOut);
  ValueId x = b.Input("x", {2, 3, options.input_size, options.input_size});
  x = b.Conv2d("conv1", x, 3, 64, {.kernel = 7, .stride = 2, .padding = 3});
  x = b.Relu(b.BatchNorm2d("bn1", x, 64), "relu");
  x = b.MaxPool2d(x, {.kernel = 3, .stride = 2, .padding = 1}, "maxpool");
  int64_t in = 64;
  for (size_t stage = 0; stage < blocks.size(); ++stage) {
    const int64_t width = int64_t{64} << stage;
    const int64_t out = bottleneck ? width * kExpansion : width;
    for (int64_t block = 0; block < blocks[stage]; ++block, in = out) {
      const std::string path = Str("layer", stage + 1, ".", block);
      const int64_t stride = stage > 0 && block == 0 ? 2 : 1;
      const ValueId branch = bottleneck ? BottleneckBranch(b, path, x, in, width, stride)
                                        : BasicBranch(b, path, x, in, width, stride);
      if (stride != 1 || in != out) {
        x = b.Conv2d(path + ".downsample.0", x, in, out, {.kernel = 1, .stride = stride});
        x = b.BatchNorm2d(path + ".downsample.1", x, out);
      }
      x = b.Relu(b.Add(branch, x, path), path + ".relu");
    }
  }
  x = b.Flatten(b.GlobalAvgPool(x, "avgpool"));
  return b.Finish({b.Linear("fc", x, in, options.classes)});
}

}  // namespace espalier

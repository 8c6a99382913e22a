#include "env/base/error.h"
#include "env/graph/builder.h"
#include "env/models/families.h"

namespace espalier {
namespace {

/// Convolution, batch norm, ReLU6 as elements 0, 1, 2 of the sequence at `path`.
ValueId ConvNormRelu6(Builder& b, const std::string& path, ValueId x, int64_t in, int64_t out,
                      ConvOptions options) {
  options.padding = options.kernel / 2;
  x = b.Conv2d(path + ".0", x, in, out, options);
  return b.Relu6(b.BatchNorm2d(path + ".1", x, out), path + ".2");
}

ValueId InvertedResidual(Builder& b, const std::string& path, ValueId x, int64_t in, int64_t out,
                         int64_t expansion, int64_t stride) {
  const int64_t hidden = in * expansion;
  int64_t index = 0;
  ValueId y = x;
  if (expansion != 1)
    y = ConvNormRelu6(b, Str(path, ".conv.", index++), y, in, hidden, {.kernel = 1});
  y = ConvNormRelu6(b, Str(path, ".conv.", index++), y, hidden, hidden,
                    {.kernel = 3, .stride = stride, .groups = hidden});
  y = b.Conv2d(Str(path, ".conv.", index), y, hidden, out, {.kernel = 1});
  y = b.BatchNorm2d(Str(path, ".conv.", index + 1), y, out);
  return stride == 1 && in == out ? b.Add(x, y, path) : y;
}

}  // namespace

Network ImagenetMobilenetV2(const ModelOptions& options) {
  struct Stage {
    int64_t expansion, out, blocks, stride;
  };
  const std::vector<Stage> stages = {{1, 16, 1, 1}, {6, 24, 2, 2},  {6, 32, 3, 2}, {6, 64, 4, 2},
                                     {6, 96, 3, 1}, {6, 160, 3, 2}, {6, 320, 1, 1}};
  Builder b("mobilenet_v2", options.seed, Init::kKaimingNormalFanOut);
  ValueId x = b.Input("x", {2, 3, options.input_size, options.input_size});
  x = ConvNormRelu6(b, "features.0", x, 3, 32, {.kernel = 3, .stride = 2});
  int64_t width = 32, index = 1;
  for (const Stage& stage : stages)
    for (int64_t block = 0; block < stage.blocks; ++block, ++index, width = stage.out)
      x = InvertedResidual(b, Str("features.", index), x, width, stage.out, stage.expansion,
                           block == 0 ? stage.stride : 1);
  x = ConvNormRelu6(b, Str("features.", index), x, width, 1280, {.kernel = 1});
  x = b.Dropout(b.Flatten(b.GlobalAvgPool(x)), 0.2, "classifier.0");
  Network network = b.Finish({b.Linear("classifier.1", x, 1280, options.classes)});
  InitLinears(network, 0.01, options.seed);
  return network;
}

}  // namespace espalier

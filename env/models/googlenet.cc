#include "env/base/error.h"
#include "env/graph/builder.h"
#include "env/models/families.h"

namespace espalier {
namespace {

struct InceptionWidths {
  std::string name;
  int64_t one;                  ///< 1x1
  int64_t three_reduce, three;  ///< 1x1, 3x3
  int64_t five_reduce, five;    ///< 1x1, 3x3, 3x3 (two 3x3 see what one 5x5 sees)
  int64_t pool;                 ///< max pooling, 1x1
  bool halve_before;            ///< 3x3 max pooling of stride 2 in front
  int64_t out() const { return one + three + five + pool; }
};

const std::vector<InceptionWidths>& Inceptions() {  // Szegedy et al. 2015, table 1
  static const std::vector<InceptionWidths> kInceptions = {
      {"a3", 64, 96, 128, 16, 32, 32, false},     {"b3", 128, 128, 192, 32, 96, 64, false},
      {"a4", 192, 96, 208, 16, 48, 64, true},     {"b4", 160, 112, 224, 24, 64, 64, false},
      {"c4", 128, 128, 256, 24, 64, 64, false},   {"d4", 112, 144, 288, 32, 64, 64, false},
      {"e4", 256, 160, 320, 32, 128, 128, false}, {"a5", 256, 160, 320, 32, 128, 128, true},
      {"b5", 384, 192, 384, 48, 128, 128, false}};
  return kInceptions;
}

/// Convolution, batch norm, ReLU as elements `index`, +1, +2 of the sequence at `path`.
ValueId ConvNormRelu(Builder& b, const std::string& path, int64_t index, ValueId x, int64_t in,
                     int64_t out, int64_t kernel) {
  x = b.Conv2d(Str(path, ".", index), x, in, out,
               {.kernel = kernel, .padding = kernel / 2, .bias = true});
  return b.Relu(b.BatchNorm2d(Str(path, ".", index + 1), x, out), Str(path, ".", index + 2));
}

ValueId Inception(Builder& b, const std::string& path, ValueId x, int64_t in,
                  const InceptionWidths& widths) {
  const ValueId one = ConvNormRelu(b, path + ".branch1x1", 0, x, in, widths.one, 1);

  const std::string three_path = path + ".branch3x3";
  ValueId three = ConvNormRelu(b, three_path, 0, x, in, widths.three_reduce, 1);
  three = ConvNormRelu(b, three_path, 3, three, widths.three_reduce, widths.three, 3);

  const std::string five_path = path + ".branch5x5";
  ValueId five = ConvNormRelu(b, five_path, 0, x, in, widths.five_reduce, 1);
  five = ConvNormRelu(b, five_path, 3, five, widths.five_reduce, widths.five, 3);
  five = ConvNormRelu(b, five_path, 6, five, widths.five, widths.five, 3);

  const std::string pool_path = path + ".branch_pool";
  ValueId pool = b.MaxPool2d(x, {.kernel = 3, .stride = 1, .padding = 1}, pool_path + ".0");
  pool = ConvNormRelu(b, pool_path, 1, pool, in, widths.pool, 1);

  return b.Cat({one, three, five, pool}, 1, path);
}

}  // namespace

Network CifarGooglenet(const ModelOptions& options) {
  Builder b("googlenet_cifar", options.seed);
  int64_t size = options.input_size, width = 192;
  ValueId x = b.Input("x", {2, 3, size, size});
  x = ConvNormRelu(b, "pre_layers", 0, x, 3, width, 3);
  int64_t pools = 0;
  for (const InceptionWidths& widths : Inceptions()) {
    if (widths.halve_before) {
      x = b.MaxPool2d(x, {.kernel = 3, .stride = 2, .padding = 1}, Str("maxpool", ++pools));
      size = (size + 1) / 2;
    }
    x = Inception(b, "inception_" + widths.name, x, width, widths);
    width = widths.out();
  }
  x = b.AvgPool2d(x, {.kernel = size}, "avgpool");  // the whole map: 8x8
  return b.Finish({b.Linear("linear", b.Flatten(x), width, options.classes)});
}

}  // namespace espalier

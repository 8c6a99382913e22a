#pragma once

#include "env/graph/builder.h"
#include "env/models/models.h"

namespace espalier {

/// A stem, an inverted residual with a depthwise convolution, a concatenation and a classifier.
inline Network ConvNet() {
  Builder b("conv_net", 3);
  const auto block = [&](const std::string& path, ValueId x, int64_t in, int64_t out,
                         const ConvOptions& options) {
    return b.BatchNorm2d(path + ".norm", b.Conv2d(path, x, in, out, options), out);
  };
  ValueId x = b.Relu(block("stem", b.Input("x", {2, 3, 12, 12}), 3, 20, {.padding = 1}));
  ValueId y = b.Relu6(block("expand", x, 20, 48, {.kernel = 1}));
  y = b.Relu6(block("depth", y, 48, 48, {.padding = 1, .groups = 48}));
  y = b.Add(x, block("project", y, 48, 20, {.kernel = 1}));
  const ValueId left = b.Relu(b.Conv2d("left", y, 20, 24, {.stride = 2, .padding = 1}));
  const ValueId right = b.Conv2d("right", y, 20, 16, {.stride = 2, .padding = 1});
  const ValueId last = b.Conv2d("last", y, 20, 12, {.stride = 2, .padding = 1});
  const ValueId both =
      b.Relu(b.Conv2d("both", b.Relu(b.Cat({left, right, last})), 52, 32, {.kernel = 1}));
  return b.Finish({b.Linear("fc", b.Flatten(b.GlobalAvgPool(both)), 32, 7)});
}

/// One attention of 4 heads of 6 dims over 5 tokens, and a feed-forward layer.
inline Network Attention() {
  using Ints = std::vector<int64_t>;
  constexpr int64_t kWidth = 24, kHeads = 4, kDim = 6, kLength = 5;
  Builder b("attention", 1);
  const auto view = [&](ValueId x, const Ints& sizes) {
    return b.Call("aten::reshape", "", {{"self", x}, {"shape", c10::IValue(sizes)}});
  };
  const auto transpose = [&](ValueId x, int64_t i, int64_t j) {
    return b.Call("aten::transpose", "int",
                  {{"self", x}, {"dim0", c10::IValue(i)}, {"dim1", c10::IValue(j)}});
  };
  const auto heads = [&](ValueId x) {
    return transpose(view(x, {-1, kLength, kHeads, kDim}), 1, 2);
  };
  const ValueId x = b.Input("x", {2, kLength, 8});
  const ValueId q = heads(b.Linear("q", x, 8, kWidth)), k = heads(b.Linear("k", x, 8, kWidth)),
                v = heads(b.Linear("v", x, 8, kWidth));
  const ValueId scores = b.Call("aten::matmul", "", {{"self", q}, {"other", transpose(k, 2, 3)}});
  const ValueId weights =
      b.Call("aten::softmax", "int", {{"self", scores}, {"dim", c10::IValue(-1)}});
  const ValueId mixed = b.Call("aten::matmul", "", {{"self", weights}, {"other", v}});
  const ValueId out =
      b.Linear("proj", view(transpose(mixed, 1, 2), {-1, kLength, kWidth}), kWidth, 16);
  return b.Finish({b.Linear("head", b.Relu(out), 16, 3)});
}

}  // namespace espalier

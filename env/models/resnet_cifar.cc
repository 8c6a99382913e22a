#include <array>
#include <limits>

#include "env/base/error.h"
#include "env/graph/builder.h"
#include "env/models/families.h"

namespace espalier {
namespace {

constexpr int64_t kWholeAxis = std::numeric_limits<int64_t>::max();

/// Option A of He et al. 2016 §3.3: every second pixel, new channels are zeros on both sides.
ValueId ShortcutA(Builder& b, const std::string& path, ValueId x, int64_t in, int64_t out) {
  const std::string type = "torch.nn.modules.container.Sequential";
  for (const int64_t dim : {2, 3})
    x = b.Call("aten::slice", "Tensor",
               {{"self", x},
                {"dim", c10::IValue(dim)},
                {"start", c10::IValue(int64_t{0})},
                {"end", c10::IValue(kWholeAxis)},
                {"step", c10::IValue(int64_t{2})}},
               path, type);
  const int64_t before = (out - in) / 2;
  return b.Call("aten::constant_pad_nd", "",
                {{"self", x},
                 {"pad", c10::IValue(std::vector<int64_t>{0, 0, 0, 0, before, out - in - before})}},
                path, type);
}

ValueId ShortcutProjection(Builder& b, const std::string& path, ValueId x, int64_t in, int64_t out,
                           int64_t stride) {
  x = b.Conv2d(path + ".0", x, in, out, {.kernel = 1, .stride = stride});
  return b.BatchNorm2d(path + ".1", x, out);
}

ValueId BasicBlock(Builder& b, const std::string& path, ValueId x, int64_t in, int64_t out,
                   const std::string& shortcut) {
  const int64_t stride = in == out ? 1 : 2;
  ValueId y = b.Conv2d(path + ".conv1", x, in, out, {.stride = stride, .padding = 1});
  y = b.Relu(b.BatchNorm2d(path + ".bn1", y, out), path);
  y = b.Conv2d(path + ".conv2", y, out, out, {.padding = 1});
  y = b.BatchNorm2d(path + ".bn2", y, out);
  if (in != out)
    x = shortcut == "A" ? ShortcutA(b, path + ".shortcut", x, in, out)
                        : ShortcutProjection(b, path + ".shortcut", x, in, out, stride);
  return b.Relu(b.Add(y, x, path), path);
}

}  // namespace

Network CifarResnet(const std::string& name, int64_t blocks, const ModelOptions& options) {
  Builder b(name, options.seed, Init::kKaimingNormal);
  ValueId x = b.Input("x", {2, 3, options.input_size, options.input_size});
  x = b.Conv2d("conv1", x, 3, 16, {.padding = 1});
  x = b.Relu(b.BatchNorm2d("bn1", x, 16));
  int64_t width = 16;
  for (const int64_t stage : {1, 2, 3}) {
    const int64_t out = int64_t{8} << stage;  // 16, 32, 64
    for (int64_t block = 0; block < blocks; ++block) {
      x = BasicBlock(b, Str("layer", stage, ".", block), x, width, out, options.shortcut);
      width = out;
    }
  }
  x = b.Flatten(b.GlobalAvgPool(x));
  return b.Finish({b.Linear("linear", x, width, options.classes)});
}

}  // namespace espalier

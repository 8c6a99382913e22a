#include "tests/env/space/random_network.h"

#include <algorithm>

#include "tests/env/space/random_draw.h"

namespace espalier {

Network Draw::Make() {
  Push(b_.Input("x", {2, 3, 8, 8}), 3);
  Conv();
  const auto steps = 6 + static_cast<int>(rng_.Index(12));
  for (int step = 0; step < steps; ++step)
    if (menu_ != Menu::kConvolutional && rng_.Uniform() < 0.6)
      Wide();
    else
      Step();
  std::vector<ValueId> tops;
  int64_t channels = 0;
  const size_t count = std::min<size_t>(values_.size(), 3);
  for (size_t i = values_.size() - count; i < values_.size(); ++i) {
    tops.push_back(b_.GlobalAvgPool(values_[i].id));
    channels += values_[i].channels;
  }
  return b_.Finish({b_.Linear("head", b_.Flatten(b_.Cat(tops)), channels, 5)});
}

void Draw::Conv() {
  const Item in = Any();
  const int64_t out = 4 * (1 + static_cast<int64_t>(rng_.Index(4)));
  const bool wide = rng_.Uniform() < 0.5;
  Push(b_.Conv2d(Path("conv"), in.id, in.channels, out,
                 {.kernel = wide ? 3 : 1, .padding = wide ? 1 : 0, .bias = rng_.Uniform() < 0.5}),
       out);
}

void Draw::Grouped() {
  const Item in = Any();
  const bool depthwise = rng_.Uniform() < 0.5;
  const int64_t groups = depthwise ? in.channels : in.channels % 4 == 0 ? 4 : 1;
  const int64_t out = depthwise ? in.channels * (1 + static_cast<int64_t>(rng_.Index(2))) : 8;
  Push(b_.Conv2d(Path("group"), in.id, in.channels, out, {.padding = 1, .groups = groups}), out);
}

void Draw::Activate() {
  static const std::vector<std::string> kOps = {"aten::relu", "aten::sigmoid", "aten::tanh",
                                                "aten::hardswish", "aten::silu"};
  const Item in = Any();
  Push(b_.Call(kOps[rng_.Index(kOps.size())], "", {{"self", in.id}}), in.channels);
}

void Draw::Merge() {
  const Item left = Any();
  std::vector<Item> same;
  for (const Item& item : values_)
    if (item.channels == left.channels) same.push_back(item);
  const Item right = same[rng_.Index(same.size())];
  Push(b_.Call(rng_.Uniform() < 0.7 ? "aten::add" : "aten::mul", "Tensor",
               {{"self", left.id}, {"other", right.id}}),
       left.channels);
}

void Draw::Concat() {
  const Item left = Any(), right = Any();
  if (left.channels + right.channels > 48) return Activate();
  Push(b_.Cat({left.id, right.id}), left.channels + right.channels);
}

void Draw::Gate() {
  const Item in = Any();
  const std::string path = Path("se");
  ValueId s = b_.Conv2d(path + ".down", b_.GlobalAvgPool(in.id), in.channels, 4,
                        {.kernel = 1, .bias = true});
  s = b_.Conv2d(path + ".up", b_.Relu(s), 4, in.channels, {.kernel = 1, .bias = true});
  const ValueId gate = b_.Call("aten::sigmoid", "", {{"self", s}});
  Push(b_.Call("aten::mul", "Tensor", {{"self", in.id}, {"other", gate}}), in.channels);
}

void Draw::PaddedShortcut() {
  const Item in = Any();
  if (in.channels > 24) return Activate();
  const int64_t left = static_cast<int64_t>(rng_.Index(5)), right = 4 - left;
  const ValueId wide = b_.Call(
      "aten::constant_pad_nd", "",
      {{"self", in.id}, {"pad", c10::IValue(std::vector<int64_t>{0, 0, 0, 0, left, right})}});
  const ValueId branch =
      b_.Conv2d(Path("wide"), in.id, in.channels, in.channels + 4, {.padding = 1});
  Push(b_.Add(branch, wide), in.channels + 4);
}

void Draw::Shuffle() {
  const Item in = Any();
  if (in.channels % 2 != 0) return Activate();
  const auto view = [&](ValueId v, std::vector<int64_t> size) {
    return b_.Call("aten::reshape", "", {{"self", v}, {"shape", c10::IValue(std::move(size))}});
  };
  const ValueId split = view(in.id, {-1, 2, in.channels / 2, 8, 8});
  const ValueId swapped =
      b_.Call("aten::transpose", "int",
              {{"self", split}, {"dim0", c10::IValue(1)}, {"dim1", c10::IValue(2)}});
  Push(view(swapped, {-1, in.channels, 8, 8}), in.channels);
}

void Draw::Step() {
  const double draw = rng_.Uniform();
  if (draw < 0.3) return Conv();
  if (draw < 0.4) return Grouped();
  if (draw < 0.5) {
    const Item in = Any();
    return Push(b_.BatchNorm2d(Path("bn"), in.id, in.channels), in.channels);
  }
  if (draw < 0.6) return Activate();
  if (draw < 0.72) return Merge();
  if (draw < 0.8) return Concat();
  if (draw < 0.87) return Gate();
  if (draw < 0.93) return PaddedShortcut();
  if (draw < 0.95) return Shuffle();
  const Item in = Any();
  Push(b_.MaxPool2d(in.id, {.kernel = 3, .stride = 1, .padding = 1}), in.channels);
}

Network RandomNetwork(uint64_t seed, Menu menu) { return Draw(seed, menu).Make(); }

}  // namespace espalier

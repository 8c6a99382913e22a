#include "tests/env/space/random_network.h"

#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>

#include "env/base/error.h"
#include "env/graph/builder.h"

namespace espalier {
namespace {

/// Every value is [batch, channels, 8, 8], so that any step may follow any other.
class Draw {
 public:
  Draw(uint64_t seed, Menu menu) : rng_(seed), b_("fuzz", seed), menu_(menu) {}

  Network Make() {
    Push(b_.Input("x", {2, 3, 8, 8}), 3);
    Conv();
    const auto steps = 6 + static_cast<int>(rng_.Index(12));
    for (int step = 0; step < steps; ++step)
      if (menu_ == Menu::kEverything && rng_.Uniform() < 0.6)
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

 private:
  struct Item {
    ValueId id;
    int64_t channels;
  };

  void Push(ValueId id, int64_t channels) { values_.push_back({id, channels}); }
  Item Any() { return values_[rng_.Index(values_.size())]; }
  std::string Path(const char* kind) { return Str(kind, layers_++); }

  void Conv() {
    const Item in = Any();
    const int64_t out = 4 * (1 + static_cast<int64_t>(rng_.Index(4)));
    const bool wide = rng_.Uniform() < 0.5;
    Push(b_.Conv2d(Path("conv"), in.id, in.channels, out,
                   {.kernel = wide ? 3 : 1, .padding = wide ? 1 : 0, .bias = rng_.Uniform() < 0.5}),
         out);
  }

  void Grouped() {
    const Item in = Any();
    const bool depthwise = rng_.Uniform() < 0.5;
    const int64_t groups = depthwise ? in.channels : in.channels % 4 == 0 ? 4 : 1;
    const int64_t out = depthwise ? in.channels * (1 + static_cast<int64_t>(rng_.Index(2))) : 8;
    Push(b_.Conv2d(Path("group"), in.id, in.channels, out, {.padding = 1, .groups = groups}), out);
  }

  void Activate() {
    static const std::vector<std::string> kOps = {"aten::relu", "aten::sigmoid", "aten::tanh",
                                                  "aten::hardswish", "aten::silu"};
    const Item in = Any();
    Push(b_.Call(kOps[rng_.Index(kOps.size())], "", {{"self", in.id}}), in.channels);
  }

  void Merge() {
    const Item left = Any();
    std::vector<Item> same;
    for (const Item& item : values_)
      if (item.channels == left.channels) same.push_back(item);
    const Item right = same[rng_.Index(same.size())];
    Push(b_.Call(rng_.Uniform() < 0.7 ? "aten::add" : "aten::mul", "Tensor",
                 {{"self", left.id}, {"other", right.id}}),
         left.channels);
  }

  void Concat() {
    const Item left = Any(), right = Any();
    if (left.channels + right.channels > 48) return Activate();
    Push(b_.Cat({left.id, right.id}), left.channels + right.channels);
  }

  void Gate() {  // squeeze-excite
    const Item in = Any();
    const std::string path = Path("se");
    ValueId s = b_.Conv2d(path + ".down", b_.GlobalAvgPool(in.id), in.channels, 4,
                          {.kernel = 1, .bias = true});
    s = b_.Conv2d(path + ".up", b_.Relu(s), 4, in.channels, {.kernel = 1, .bias = true});
    const ValueId gate = b_.Call("aten::sigmoid", "", {{"self", s}});
    Push(b_.Call("aten::mul", "Tensor", {{"self", in.id}, {"other", gate}}), in.channels);
  }

  void PaddedShortcut() {
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

  void Shuffle() {  // a reshape that splits the channels: pinned, with a reason
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

  void Step() {
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

  // ---- the wider menu: each step leaves [batch, channels, 8, 8] again
  using Ints = std::vector<int64_t>;
  static Arg Int(int64_t value) { return c10::IValue(value); }
  static Arg List(Ints values) { return c10::IValue(std::move(values)); }
  /// An operator of one tensor, which it calls self.
  ValueId On(const std::string& op, const std::string& overload, ValueId self,
             std::vector<Builder::NamedArg> rest = {}) {
    rest.insert(rest.begin(), {"self", self});
    return b_.Call("aten::" + op, overload, std::move(rest));
  }
  ValueId View(ValueId x, Ints sizes) {
    return On("reshape", "", x, {{"shape", c10::IValue(std::move(sizes))}});
  }
  ValueId Permute(ValueId x, Ints dims) {
    return On("permute", "", x, {{"dims", c10::IValue(std::move(dims))}});
  }
  ValueId Transpose(ValueId x, int64_t a, int64_t c) {
    return On("transpose", "int", x, {{"dim0", c10::IValue(a)}, {"dim1", c10::IValue(c)}});
  }
  ValueId ChannelsLast(ValueId x) { return Permute(x, {0, 2, 3, 1}); }
  ValueId ChannelsFirst(ValueId x) { return Permute(x, {0, 3, 1, 2}); }
  ValueId Random(const std::string& path, Ints sizes) {
    return b_.Parameter(path, at::randn(sizes, at::detail::createCPUGenerator(layers_)));
  }

  void LinearOverChannels() {
    const Item in = Any();
    const int64_t out = 4 * (1 + static_cast<int64_t>(rng_.Index(4)));
    Push(ChannelsFirst(b_.Linear(Path("dense"), ChannelsLast(in.id), in.channels, out)), out);
  }

  void LayerNorm() {
    const Item in = Any();
    const std::string path = Path("norm");
    Push(ChannelsFirst(b_.Call("aten::layer_norm", "",
                               {{"input", ChannelsLast(in.id)},
                                {"normalized_shape", List({in.channels})},
                                {"weight", Random(path + ".weight", {in.channels})},
                                {"bias", Random(path + ".bias", {in.channels})}})),
         in.channels);
  }

  void GroupNorm() {
    const Item in = Any();
    const int64_t groups = in.channels % 4 == 0 ? 4 : 1;
    const std::string path = Path("norm");
    Push(b_.Call("aten::group_norm", "",
                 {{"input", in.id},
                  {"num_groups", c10::IValue(groups)},
                  {"weight", Random(path + ".weight", {in.channels})},
                  {"bias", Random(path + ".bias", {in.channels})}}),
         in.channels);
  }

  void Halves() {  // a split, its parts used apart or swapped
    const Item in = Any();
    if (in.channels < 2) return Activate();
    const int64_t at = 1 + static_cast<int64_t>(rng_.Index(static_cast<uint64_t>(in.channels - 1)));
    const bool even = in.channels % 2 == 0 && rng_.Uniform() < 0.5;
    const Builder::NamedArg self{"self", in.id}, dim{"dim", Int(1)};
    const auto parts =
        even ? b_.CallMulti("aten::chunk", "", {self, {"chunks", Int(2)}, dim}, 2)
             : b_.CallMulti("aten::split_with_sizes", "",
                            {self, {"split_sizes", List({at, in.channels - at})}, dim}, 2);
    if (rng_.Uniform() < 0.5) return Push(b_.Cat({parts[1], parts[0]}), in.channels);
    const int64_t left = even ? in.channels / 2 : at;
    Push(parts[0], left);
    Push(b_.Relu(parts[1]), in.channels - left);
  }

  void Narrow() {
    const Item in = Any();
    if (in.channels < 3) return Activate();
    Push(On("slice", "Tensor", in.id,
            {{"dim", Int(1)}, {"start", Int(1)}, {"end", Int(in.channels - 1)}}),
         in.channels - 2);
  }

  void Reorder() {
    const Item in = Any();
    const double draw = rng_.Uniform();
    if (draw < 0.4) {
      const ValueId index = b_.Buffer(Path("order"), at::tensor(rng_.Permutation(in.channels)));
      Push(On("index_select", "", in.id, {{"dim", Int(1)}, {"index", index}}), in.channels);
    } else if (draw < 0.7) {
      Push(On("roll", "", in.id,
              {{"shifts", List({1})}, {"dims", List({rng_.Uniform() < 0.5 ? 1 : 2})}}),
           in.channels);
    } else {
      Push(On("flip", "", in.id, {{"dims", List({1, 3})}}), in.channels);
    }
  }

  void Pixels() {  // space to depth, a convolution there, and back
    const Item in = Any();
    if (in.channels > 12) return Activate();
    const ValueId deep = On("pixel_unshuffle", "", in.id, {{"downscale_factor", Int(2)}});
    const ValueId mixed = b_.Conv2d(Path("pixels"), deep, 4 * in.channels, 16, {.padding = 1});
    Push(On("pixel_shuffle", "", mixed, {{"upscale_factor", Int(2)}}), 4);
  }

  void Transposed() {
    const Item in = Any();
    const int64_t groups = in.channels % 4 == 0 && rng_.Uniform() < 0.5 ? 4 : 1;
    const ValueId weight = Random(Path("up") + ".weight", {in.channels, 8 / groups, 3, 3});
    Push(b_.Call("aten::conv_transpose2d", "input",
                 {{"input", in.id},
                  {"weight", weight},
                  {"padding", List({1, 1})},
                  {"groups", c10::IValue(groups)}}),
         8);
  }

  void DownAndUp() {
    const Item in = Any();
    const ValueId small =
        b_.Conv2d(Path("down"), in.id, in.channels, 8, {.stride = 2, .padding = 1});
    Push(b_.Call(
             "aten::upsample_nearest2d", "vec",
             {{"input", small}, {"output_size", List({8, 8})}, {"scale_factors", c10::IValue()}}),
         8);
  }

  void Attention() {
    const Item in = Any();
    const std::string path = Path("attention");
    const int64_t heads = 2, dim = 4, width = heads * dim;
    const ValueId tokens = Transpose(View(in.id, {-1, in.channels, 64}), 1, 2);
    const auto project = [&](const char* name) {
      const ValueId x = b_.Linear(path + name, tokens, in.channels, width);
      return Transpose(View(x, {-1, 64, heads, dim}), 1, 2);
    };
    const ValueId q = project(".q"), k = project(".k"), v = project(".v");
    ValueId mixed;
    if (rng_.Uniform() < 0.5) {
      mixed = b_.Call("aten::scaled_dot_product_attention", "",
                      {{"query", q}, {"key", k}, {"value", v}});
    } else {
      const ValueId scores = On("matmul", "", q, {{"other", Transpose(k, 2, 3)}});
      const ValueId weights = On("softmax", "int", scores, {{"dim", Int(-1)}});
      mixed = On("matmul", "", weights, {{"other", v}});
    }
    const ValueId merged = View(Transpose(mixed, 1, 2), {-1, 64, width});
    const ValueId out = b_.Linear(path + ".out", merged, width, in.channels);
    Push(View(Transpose(out, 1, 2), {-1, in.channels, 8, 8}), in.channels);
  }

  void Flattened() {  // channels and places in one axis, down to a gate of few channels
    const Item in = Any();
    const bool last = rng_.Uniform() < 0.5;
    const ValueId flat = b_.Flatten(last ? ChannelsLast(in.id) : in.id);
    const ValueId code = b_.Relu(b_.Linear(Path("code"), flat, 64 * in.channels, 6));
    const ValueId gate = b_.Linear(Path("gate"), code, 6, in.channels);
    Push(On("mul", "Tensor", in.id, {{"other", View(gate, {-1, in.channels, 1, 1})}}), in.channels);
  }

  void GatedUnit() {
    const Item in = Any();
    if (in.channels % 2 != 0) return Activate();
    Push(On("glu", "", in.id, {{"dim", Int(1)}}), in.channels / 2);
  }

  void Stacked() {  // side by side in an axis of their own, then one of them or their mean
    const Item in = Any();
    const ValueId other = b_.Conv2d(Path("twin"), in.id, in.channels, in.channels, {.kernel = 1});
    const int64_t dim = rng_.Uniform() < 0.5 ? 1 : 4;
    const ValueId both = b_.Call(
        "aten::stack", "", {{"tensors", ValueList{{in.id, other}}}, {"dim", c10::IValue(dim)}});
    if (rng_.Uniform() < 0.5)
      Push(On("mean", "dim", both, {{"dim", List({dim})}}), in.channels);
    else
      Push(b_.CallMulti("aten::unbind", "int", {{"self", both}, {"dim", c10::IValue(dim)}}, 2)[1],
           in.channels);
  }

  void OverChannels() {  // a statistic or a running sum along the channels themselves
    const Item in = Any();
    const bool sum = rng_.Uniform() < 0.5;
    Push(On(sum ? "cumsum" : "softmax", sum ? "" : "int", in.id, {{"dim", Int(1)}}), in.channels);
  }

  void Spread() {  // one value a channel, spread over the places again
    const Item in = Any();
    const ValueId wide =
        On("expand", "", b_.GlobalAvgPool(in.id), {{"size", List({-1, -1, 8, 8})}});
    Push(b_.Add(in.id, wide), in.channels);
  }

  void Repeated() {
    const Item in = Any();
    if (in.channels > 12) return Activate();
    if (rng_.Uniform() < 0.5)
      Push(On("repeat", "", in.id, {{"repeats", List({1, 2, 1, 1})}}), 2 * in.channels);
    else
      Push(On("repeat_interleave", "self_int", in.id, {{"repeats", Int(2)}, {"dim", Int(1)}}),
           2 * in.channels);
  }

  void Scaled() {  // layer scale, or a slope a channel
    const Item in = Any();
    if (rng_.Uniform() < 0.5)
      Push(On("mul", "Tensor", in.id, {{"other", Random(Path("scale"), {in.channels, 1, 1})}}),
           in.channels);
    else
      Push(On("prelu", "", in.id, {{"weight", Random(Path("slope"), {in.channels})}}), in.channels);
  }

  void Shared() {  // one convolution used twice, on its own output the second time
    const Item in = Any();
    const ValueId weight = Random(Path("shared"), {in.channels, in.channels, 1, 1});
    const auto apply = [&](ValueId x) {
      return b_.Call("aten::conv2d", "", {{"input", x}, {"weight", weight}});
    };
    Push(apply(On("tanh", "", apply(in.id))), in.channels);
  }

  void Contracted() {
    const Item in = Any();
    const int64_t out = 4 + static_cast<int64_t>(rng_.Index(5));
    const ValueId matrix = Random(Path("einsum"), {out, in.channels});
    Push(b_.Call(
             "aten::einsum", "",
             {{"equation", c10::IValue("bchw,oc->bohw")}, {"tensors", ValueList{{in.id, matrix}}}}),
         out);
  }

  void Wide() {
    using Step = void (Draw::*)();
    static const std::vector<Step> kSteps = {&Draw::LinearOverChannels,
                                             &Draw::LayerNorm,
                                             &Draw::GroupNorm,
                                             &Draw::Halves,
                                             &Draw::Narrow,
                                             &Draw::Reorder,
                                             &Draw::Pixels,
                                             &Draw::Transposed,
                                             &Draw::DownAndUp,
                                             &Draw::Attention,
                                             &Draw::Flattened,
                                             &Draw::GatedUnit,
                                             &Draw::Stacked,
                                             &Draw::Spread,
                                             &Draw::Repeated,
                                             &Draw::Scaled,
                                             &Draw::Shared,
                                             &Draw::Contracted,
                                             &Draw::OverChannels};
    (this->*kSteps[rng_.Index(kSteps.size())])();
  }

  Rng rng_;
  Builder b_;
  Menu menu_;
  std::vector<Item> values_;
  int layers_ = 0;
};

}  // namespace

Network RandomNetwork(uint64_t seed, Menu menu) { return Draw(seed, menu).Make(); }

}  // namespace espalier

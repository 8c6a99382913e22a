#include <ATen/ATen.h>

#include "tests/env/space/random_draw.h"

// The wider menu.

namespace espalier {

void Draw::LinearOverChannels() {
  const Item in = Any();
  const int64_t out = 4 * (1 + static_cast<int64_t>(rng_.Index(4)));
  Push(ChannelsFirst(b_.Linear(Path("dense"), ChannelsLast(in.id), in.channels, out)), out);
}

void Draw::LayerNorm() {
  const Item in = Any();
  const std::string path = Path("norm");
  Push(ChannelsFirst(b_.Call("aten::layer_norm", "",
                             {{"input", ChannelsLast(in.id)},
                              {"normalized_shape", List({in.channels})},
                              {"weight", Random(path + ".weight", {in.channels})},
                              {"bias", Random(path + ".bias", {in.channels})}})),
       in.channels);
}

void Draw::GroupNorm() {
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

void Draw::Halves() {
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

void Draw::Narrow() {
  const Item in = Any();
  if (in.channels < 3) return Activate();
  Push(On("slice", "Tensor", in.id,
          {{"dim", Int(1)}, {"start", Int(1)}, {"end", Int(in.channels - 1)}}),
       in.channels - 2);
}

void Draw::Reorder() {
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

void Draw::Pixels() {
  const Item in = Any();
  if (in.channels > 12) return Activate();
  const ValueId deep = On("pixel_unshuffle", "", in.id, {{"downscale_factor", Int(2)}});
  const ValueId mixed = b_.Conv2d(Path("pixels"), deep, 4 * in.channels, 16, {.padding = 1});
  Push(On("pixel_shuffle", "", mixed, {{"upscale_factor", Int(2)}}), 4);
}

void Draw::Transposed() {
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

void Draw::DownAndUp() {
  const Item in = Any();
  const ValueId small = b_.Conv2d(Path("down"), in.id, in.channels, 8, {.stride = 2, .padding = 1});
  Push(b_.Call("aten::upsample_nearest2d", "vec",
               {{"input", small}, {"output_size", List({8, 8})}, {"scale_factors", c10::IValue()}}),
       8);
}

void Draw::Attention() {
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
    mixed =
        b_.Call("aten::scaled_dot_product_attention", "", {{"query", q}, {"key", k}, {"value", v}});
  } else {
    const ValueId scores = On("matmul", "", q, {{"other", Transpose(k, 2, 3)}});
    const ValueId weights = On("softmax", "int", scores, {{"dim", Int(-1)}});
    mixed = On("matmul", "", weights, {{"other", v}});
  }
  const ValueId merged = View(Transpose(mixed, 1, 2), {-1, 64, width});
  const ValueId out = b_.Linear(path + ".out", merged, width, in.channels);
  Push(View(Transpose(out, 1, 2), {-1, in.channels, 8, 8}), in.channels);
}

void Draw::Flattened() {
  const Item in = Any();
  const bool last = rng_.Uniform() < 0.5;
  const ValueId flat = b_.Flatten(last ? ChannelsLast(in.id) : in.id);
  const ValueId code = b_.Relu(b_.Linear(Path("code"), flat, 64 * in.channels, 6));
  const ValueId gate = b_.Linear(Path("gate"), code, 6, in.channels);
  Push(On("mul", "Tensor", in.id, {{"other", View(gate, {-1, in.channels, 1, 1})}}), in.channels);
}

void Draw::GatedUnit() {
  const Item in = Any();
  if (in.channels % 2 != 0) return Activate();
  Push(On("glu", "", in.id, {{"dim", Int(1)}}), in.channels / 2);
}

void Draw::Stacked() {
  const Item in = Any();
  const ValueId other = b_.Conv2d(Path("twin"), in.id, in.channels, in.channels, {.kernel = 1});
  const int64_t dim = rng_.Uniform() < 0.5 ? 1 : 4;
  const ValueId both = b_.Call("aten::stack", "",
                               {{"tensors", ValueList{{in.id, other}}}, {"dim", c10::IValue(dim)}});
  if (rng_.Uniform() < 0.5)
    Push(On("mean", "dim", both, {{"dim", List({dim})}}), in.channels);
  else
    Push(b_.CallMulti("aten::unbind", "int", {{"self", both}, {"dim", c10::IValue(dim)}}, 2)[1],
         in.channels);
}

void Draw::OverChannels() {
  const Item in = Any();
  const bool sum = rng_.Uniform() < 0.5;
  Push(On(sum ? "cumsum" : "softmax", sum ? "" : "int", in.id, {{"dim", Int(1)}}), in.channels);
}

void Draw::Spread() {
  const Item in = Any();
  const ValueId wide = On("expand", "", b_.GlobalAvgPool(in.id), {{"size", List({-1, -1, 8, 8})}});
  Push(b_.Add(in.id, wide), in.channels);
}

void Draw::Repeated() {
  const Item in = Any();
  if (in.channels > 12) return Activate();
  if (rng_.Uniform() < 0.5)
    Push(On("repeat", "", in.id, {{"repeats", List({1, 2, 1, 1})}}), 2 * in.channels);
  else
    Push(On("repeat_interleave", "self_int", in.id, {{"repeats", Int(2)}, {"dim", Int(1)}}),
         2 * in.channels);
}

void Draw::Scaled() {
  const Item in = Any();
  if (rng_.Uniform() < 0.5)
    Push(On("mul", "Tensor", in.id, {{"other", Random(Path("scale"), {in.channels, 1, 1})}}),
         in.channels);
  else
    Push(On("prelu", "", in.id, {{"weight", Random(Path("slope"), {in.channels})}}), in.channels);
}

void Draw::Shared() {
  const Item in = Any();
  const ValueId weight = Random(Path("shared"), {in.channels, in.channels, 1, 1});
  const auto apply = [&](ValueId x) {
    return b_.Call("aten::conv2d", "", {{"input", x}, {"weight", weight}});
  };
  Push(apply(On("tanh", "", apply(in.id))), in.channels);
}

void Draw::Contracted() {
  const Item in = Any();
  const int64_t out = 4 + static_cast<int64_t>(rng_.Index(5));
  const ValueId matrix = Random(Path("einsum"), {out, in.channels});
  Push(b_.Call(
           "aten::einsum", "",
           {{"equation", c10::IValue("bchw,oc->bohw")}, {"tensors", ValueList{{in.id, matrix}}}}),
       out);
}

void Draw::SingleGate() {
  const Item in = Any(), from = Any();
  const auto at = static_cast<int64_t>(rng_.Index(static_cast<uint64_t>(from.channels)));
  const ValueId one = rng_.Uniform() < 0.5
                          ? On("slice", "Tensor", from.id,
                               {{"dim", Int(1)}, {"start", Int(at)}, {"end", Int(at + 1)}})
                          : On("select", "int", from.id, {{"dim", Int(1)}, {"index", Int(at)}});
  const ValueId gate = rng_.Uniform() < 0.5 ? On("sigmoid", "", one) : one;
  const ValueId shaped = View(gate, {-1, 1, 8, 8});
  Push(On("mul", "Tensor", in.id, {{"other", shaped}}), in.channels);
}

void Draw::PathWeights() {
  const Item in = Any();
  if (in.channels % 2 != 0) return Activate();
  const int64_t half = in.channels / 2;
  const ValueId logits =
      b_.Linear(Path("paths"), b_.Flatten(b_.GlobalAvgPool(in.id)), in.channels, in.channels);
  const ValueId weights =
      On("softmax", "int", View(logits, {-1, 2, half, 1, 1}), {{"dim", Int(1)}});
  const ValueId paths = View(in.id, {-1, 2, half, 8, 8});
  Push(On("sum", "dim_IntList", On("mul", "Tensor", paths, {{"other", weights}}),
          {{"dim", List({1})}}),
       half);
}

void Draw::PaddedOnes() {
  const Item in = Any();
  if (in.channels > 24) return Activate();
  Push(On("constant_pad_nd", "", in.id,
          {{"pad", List({0, 0, 0, 0, 1, 2})}, {"value", c10::IValue(1.5)}}),
       in.channels + 3);
}

void Draw::PackedAttention() {
  const Item in = Any();
  const std::string path = Path("packed");
  const ValueId tokens = Transpose(View(in.id, {-1, in.channels, 64}), 1, 2);
  const ValueId qkv = View(b_.Linear(path + ".qkv", tokens, in.channels, 28), {-1, 64, 2, 14});
  const auto parts = b_.CallMulti("aten::split_with_sizes", "",
                                  {{"self", Permute(qkv, {0, 2, 1, 3})},
                                   {"split_sizes", List({4, 4, 6})},
                                   {"dim", c10::IValue(3)}},
                                  3);
  const ValueId scores = On("matmul", "", parts[0], {{"other", Transpose(parts[1], 2, 3)}});
  const ValueId weights = On("softmax", "int", scores, {{"dim", Int(-1)}});
  const ValueId mixed = On("matmul", "", weights, {{"other", parts[2]}});
  const ValueId out =
      b_.Linear(path + ".out", View(Transpose(mixed, 1, 2), {-1, 64, 12}), 12, in.channels);
  Push(View(Transpose(out, 1, 2), {-1, in.channels, 8, 8}), in.channels);
}

void Draw::LinearAttention() {
  const Item in = Any();
  const std::string path = Path("linear");
  const ValueId tokens = Transpose(View(in.id, {-1, in.channels, 64}), 1, 2);
  const auto project = [&](const char* name) {
    const ValueId x = b_.Linear(path + name, tokens, in.channels, 8);
    return View(Transpose(View(x, {-1, 64, 2, 4}), 1, 2), {-1, 64, 4});
  };
  const ValueId q = project(".q"), k = project(".k"), v = project(".v");
  const ValueId state = On("bmm", "", Transpose(k, 1, 2), {{"mat2", v}});
  const ValueId mixed = View(On("bmm", "", q, {{"mat2", state}}), {-1, 2, 64, 4});
  const ValueId out =
      b_.Linear(path + ".out", View(Transpose(mixed, 1, 2), {-1, 64, 8}), 8, in.channels);
  Push(View(Transpose(out, 1, 2), {-1, in.channels, 8, 8}), in.channels);
}

void Draw::CoVariance() {
  // flatten and unflatten: a part of a split may have lost all its channels, and -1 is ambiguous
  // then
  const Item a = Any(), b = Any();
  const auto flat = [&](ValueId x) {
    return On("flatten", "using_ints", x, {{"start_dim", Int(2)}, {"end_dim", Int(3)}});
  };
  const ValueId product = On("matmul", "", flat(a.id), {{"other", Transpose(flat(b.id), 1, 2)}});
  const ValueId wide = b_.Linear(Path("covariance"), On("tanh", "", product), b.channels, 64);
  Push(On("unflatten", "int", wide, {{"dim", Int(2)}, {"sizes", List({8, 8})}}), a.channels);
}

void Draw::Experts() {
  const Item in = Any();
  const auto experts = static_cast<int64_t>(2 + rng_.Index(2));
  const auto inner = static_cast<int64_t>(2 + rng_.Index(4));
  const auto out = static_cast<int64_t>(2 + rng_.Index(6));
  const std::string path = Path("experts");
  const ValueId tokens = View(ChannelsLast(in.id), {-1, 64, in.channels});
  const bool linear = rng_.Uniform() < 0.5;  // stored the other way round
  const ValueId stored = Random(
      path + ".up", linear ? Ints{experts, inner, in.channels} : Ints{experts, in.channels, inner});
  const ValueId up = linear ? Transpose(stored, 1, 2) : stored;
  const ValueId down = Random(path + ".down", {experts, inner, out});
  ValueId made;
  int64_t channels = out;
  if (rng_.Uniform() < 0.5) {
    const ValueId y = On("tanh", "", Einsum("bth,ehi->btei", tokens, up));
    made = Einsum("btei,eio->bto", y, down);
  } else {
    const ValueId wide = On("unsqueeze", "", tokens, {{"dim", Int(1)}});
    const ValueId y = On("tanh", "", On("matmul", "", wide, {{"other", up}}));
    const ValueId each = On("matmul", "", y, {{"other", down}});  // [batch, experts, 64, out]
    if (rng_.Uniform() < 0.5) {
      made = On("sum", "dim_IntList", each, {{"dim", List({1})}});
    } else {
      channels = experts * out;
      made = View(Transpose(each, 1, 2), {-1, 64, channels});
    }
  }
  Push(View(Transpose(made, 1, 2), {-1, channels, 8, 8}), channels);
}

void Draw::BlockDiagonal() {
  const Item in = Any();
  constexpr int64_t kHeads = 4;
  if (in.channels % kHeads != 0) return Activate();
  const int64_t dims = in.channels / kHeads;
  const std::string path = Path("blocks");
  const ValueId heads = Permute(View(ChannelsLast(in.id), {-1, kHeads, dims}), {1, 0, 2});
  const ValueId made =
      On("baddbmm", "", Random(path + ".bias", {kHeads, 1, dims}),
         {{"batch1", heads}, {"batch2", Random(path + ".weight", {kHeads, dims, dims})}});
  const ValueId gate = View(Permute(On("sigmoid", "", made), {1, 0, 2}), {-1, 8, 8, in.channels});
  Push(On("mul", "Tensor", ChannelsFirst(gate), {{"other", in.id}}), in.channels);
}

void Draw::PickedMatrices() {
  const Item in = Any();
  const auto slices = static_cast<int64_t>(2 + rng_.Index(2));
  const auto out = static_cast<int64_t>(2 + rng_.Index(6));
  const std::string path = Path("picked");
  std::vector<int64_t> places;
  for (int64_t i = 0; i < 64; ++i)
    places.push_back(static_cast<int64_t>(rng_.Index(static_cast<uint64_t>(slices))));
  const ValueId index = b_.Buffer(path + ".index", at::tensor(places, at::kLong));
  const ValueId weight = On("index", "Tensor", Random(path + ".weight", {slices, in.channels, out}),
                            {{"indices", ValueList{{index}}}});
  const ValueId tokens = Transpose(View(ChannelsLast(in.id), {-1, 64, in.channels}), 0, 1);
  const ValueId made = On("bmm", "", tokens, {{"mat2", weight}});  // [64, batch, out]
  Push(View(Permute(made, {1, 2, 0}), {-1, out, 8, 8}), out);
}

void Draw::Wide() {
  using Step = void (Draw::*)();
  static const std::vector<Step> kStacks = {&Draw::Experts, &Draw::BlockDiagonal,
                                            &Draw::PickedMatrices};
  if (menu_ == Menu::kStacks && rng_.Uniform() < 0.3)
    return (this->*kStacks[rng_.Index(kStacks.size())])();
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
                                           &Draw::OverChannels,
                                           &Draw::SingleGate,
                                           &Draw::PathWeights,
                                           &Draw::PaddedOnes,
                                           &Draw::PackedAttention,
                                           &Draw::LinearAttention,
                                           &Draw::CoVariance};
  (this->*kSteps[rng_.Index(kSteps.size())])();
}

}  // namespace espalier

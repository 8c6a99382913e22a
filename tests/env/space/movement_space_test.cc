#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "env/graph/builder.h"
#include "env/space/plan.h"
#include "env/space/space.h"
#include "tests/env/space/expect_exact.h"

// Units through data movement: shuffles, splits, strides, pixels.

namespace espalier {
namespace {

using Ints = std::vector<int64_t>;

ValueId View(Builder& b, ValueId x, const Ints& sizes) {
  return b.Call("aten::reshape", "", {{"self", x}, {"shape", c10::IValue(sizes)}});
}
ValueId Transpose(Builder& b, ValueId x, int64_t a, int64_t c) {
  return b.Call("aten::transpose", "int",
                {{"self", x}, {"dim0", c10::IValue(a)}, {"dim1", c10::IValue(c)}});
}

TEST(MovementSpaceUnit, ShufflesSplitsAndStridesBecomeListsThatFollow) {
  // conv -> shuffle in 3 groups -> odd and even channels -> chunks, joined again.
  Builder b("moves", 1);
  ValueId x = b.Conv2d("conv", b.Input("x", {2, 3, 4, 4}), 3, 12, {.kernel = 1});
  x = View(b, Transpose(b, View(b, x, {-1, 3, 4, 4, 4}), 1, 2), {-1, 12, 4, 4});
  const auto every_other = [&](int64_t start) {
    return b.Call("aten::slice", "Tensor",
                  {{"self", x},
                   {"dim", c10::IValue(1)},
                   {"start", c10::IValue(start)},
                   {"step", c10::IValue(2)}});
  };
  const auto halves = b.CallMulti(
      "aten::chunk", "",
      {{"self", every_other(0)}, {"chunks", c10::IValue(2)}, {"dim", c10::IValue(1)}}, 2);
  const ValueId joined = b.Cat({b.Relu(halves[1]), every_other(1), halves[0]});
  const Network net = b.Finish({b.Linear(
      "fc", b.Flatten(b.GlobalAvgPool(b.Conv2d("next", joined, 12, 6, {.kernel = 1}))), 6, 3)});
  const Space space = BuildSpace(net);
  int64_t units = 0;
  for (const Group& group : space.groups()) units += group.units;
  EXPECT_EQ(units, 12 + 6);
  for (const Pin& pin : space.pins()) EXPECT_EQ(pin.parameter, "fc.weight") << pin.reason;
  ExpectExact(net, {}, 10);
}

TEST(MovementSpaceUnit, ChannelShuffleMovesInputFiveToFour) {
  // 12 channels, 3 groups: pi(i * 4 + k) = k * 3 + i.
  Builder b("shuffle", 1);
  ValueId x = b.Conv2d("conv", b.Input("x", {2, 3, 4, 4}), 3, 12, {.kernel = 1});
  x = View(b, Transpose(b, View(b, x, {-1, 3, 4, 4, 4}), 1, 2), {-1, 12, 4, 4});
  const Network net = b.Finish({b.Conv2d("next", x, 12, 2, {.kernel = 1})});
  const Space space = BuildSpace(net);
  Selection selection = KeepAll(space);
  std::erase(selection[0], 5);
  const Plan plan = MakePlan(space, selection);
  EXPECT_EQ(plan.kept.at("next.weight")[0].kept[0], (Ints{0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11}));
}

TEST(MovementSpaceUnit, PixelShuffleTakesFourChannelsAUnit) {
  Builder b("pixels", 1);
  ValueId x = b.Conv2d("conv", b.Input("x", {2, 3, 4, 4}), 3, 12, {.kernel = 1});
  x = b.Call("aten::pixel_shuffle", "", {{"self", x}, {"upscale_factor", c10::IValue(2)}});
  const Network net = b.Finish({b.Conv2d("next", x, 3, 2, {.kernel = 1})});
  const Space space = BuildSpace(net);
  ASSERT_EQ(space.groups().size(), 1u);
  EXPECT_EQ(space.groups()[0].units, 3);
  Selection selection = KeepAll(space);
  std::erase(selection[0], 1);
  EXPECT_EQ(MakePlan(space, selection).kept.at("conv.weight")[0].kept[0],
            (Ints{0, 1, 2, 3, 8, 9, 10, 11}));
  ExpectExact(net, {});
}

/// Every unit of the layer is pinned, with this in the reason.
void ExpectPinned(const Network& net, const std::string& parameter, const std::string& reason) {
  const Space space = BuildSpace(net);
  for (const Pin& pin : space.pins())
    if (pin.parameter == parameter) {
      EXPECT_NE(pin.reason.find(reason), std::string::npos) << pin.reason;
      return;
    }
  ADD_FAILURE() << parameter << " is not pinned";
}

TEST(MovementSpaceUnit, WhatScalesAShuffledPixelGoesWithAllItsPlaces) {
  Builder b("pixels", 1);
  ValueId x = b.Conv2d("conv", b.Input("x", {2, 3, 4, 4}), 3, 16, {.kernel = 1});
  x = b.Call("aten::pixel_shuffle", "", {{"self", x}, {"upscale_factor", c10::IValue(2)}});
  const ValueId scale = b.Parameter("scale", at::linspace(0.5, 1.5, 4).view({4, 1, 1}));
  x = b.Call("aten::mul", "Tensor", {{"self", x}, {"other", scale}});
  const Network net = b.Finish({b.Linear("head", b.Flatten(b.GlobalAvgPool(x)), 4, 2)});
  const Space space = BuildSpace(net);
  ASSERT_EQ(space.groups().size(), 1u);
  EXPECT_EQ(space.groups()[0].units, 4);
  ExpectExact(net, {});
}

TEST(MovementSpaceUnit, UnequalSharesOfConvolutionGroupsArePinned) {
  // Two channels six times over: of each three in a group, one comes twice.
  Builder b("shares", 1);
  ValueId x = b.Conv2d("conv", b.Input("x", {2, 3, 4, 4}), 3, 2, {.kernel = 1});
  x = b.Call("aten::repeat", "", {{"self", x}, {"repeats", c10::IValue(Ints{1, 6, 1, 1})}});
  x = b.Conv2d("grouped", x, 12, 8, {.kernel = 1, .groups = 4});
  const Network net = b.Finish({b.Linear("head", b.Flatten(b.GlobalAvgPool(x)), 8, 2)});
  ExpectPinned(net, "conv.weight", "each of its blocks has one unit");
  ExpectExact(net, {});
}

TEST(MovementSpaceUnit, AnAxisThatIsLessThanABlockDoesNotVanish) {
  Builder b("vanishing", 1);
  ValueId x = b.Conv2d("conv", b.Input("x", {2, 3, 4, 4}), 3, 8, {.kernel = 1});
  x = b.Call("aten::group_norm", "",
             {{"input", x},
              {"num_groups", c10::IValue(4)},
              {"weight", b.Parameter("norm.weight", at::linspace(0.5, 1.5, 8))},
              {"bias", b.Parameter("norm.bias", at::linspace(-1, 1, 8))}});
  const auto parts = b.CallMulti(
      "aten::split_with_sizes", "",
      {{"self", x}, {"split_sizes", c10::IValue(Ints{1, 7})}, {"dim", c10::IValue(1)}}, 2);
  const ValueId left = b.Conv2d("left", parts[0], 1, 4, {.kernel = 1});
  const ValueId right = b.Conv2d("right", parts[1], 7, 4, {.kernel = 1});
  const Network net =
      b.Finish({b.Linear("head", b.Flatten(b.GlobalAvgPool(b.Add(left, right))), 4, 2)});
  ExpectPinned(net, "conv.weight", "'left.weight' axis 1 is less than a block");
  ExpectExact(net, {});
}

}  // namespace
}  // namespace espalier

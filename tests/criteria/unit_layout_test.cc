#include "criteria/unit_layout.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <map>

#include "criteria/group_view.h"
#include "env/base/error.h"
#include "env/graph/builder.h"
#include "tests/support/calibrated_network.h"

namespace espalier {
namespace {

/// conv1 (3 -> 4) - bn - relu - flatten of 2x2 - linear (16 -> 3)
Network FlattenNet() {
  Builder b("flatten", 1);
  ValueId x = b.Input("x", {2, 3, 2, 2});
  x = b.Relu(b.BatchNorm2d("bn", b.Conv2d("conv", x, 3, 4, {.padding = 1, .bias = true}), 4));
  return b.Finish({b.Linear("fc", b.Flatten(x), 16, 3)});
}

Network GroupedNet() {
  Builder b("grouped", 1);
  ValueId x = b.Input("x", {2, 3, 4, 4});
  x = b.Conv2d("a", x, 3, 4, {.padding = 1});
  x = b.Conv2d("b", x, 4, 6, {.padding = 1, .groups = 2});
  return b.Finish({b.Linear("fc", b.Flatten(b.GlobalAvgPool(x)), 6, 3)});
}

TEST(GroupViewUnit, GathersAllEntriesOfAUnit) {
  const Network network = FlattenNet();
  const Space space = BuildSpace(network);
  ASSERT_EQ(space.groups().size(), 1U);
  const std::vector<GroupView> views = ViewGroups(space, network.store);
  ASSERT_EQ(views[0].units, 4);
  std::map<std::string, GroupView::Slice> slices;
  for (const auto& slice : views[0].slices) slices[slice.parameter] = slice;
  // Running statistics are buffers: not weights.
  EXPECT_EQ(slices.size(), 5U);
  EXPECT_TRUE(slices.at("conv.bias").is_bias);
  EXPECT_TRUE(slices.at("bn.bias").is_bias);
  EXPECT_FALSE(slices.at("bn.weight").is_bias);
  EXPECT_TRUE(slices.at("bn.weight").is_norm);
  EXPECT_FALSE(slices.at("conv.weight").is_norm);
  // Flatten: channel 2 of 4 owns the features 8..11 of the classifier.
  const Tensor expected =
      network.store.Get("fc.weight").narrow(1, 8, 4).to(at::kDouble).t().reshape({-1});
  EXPECT_TRUE(at::equal(slices.at("fc.weight").Rows()[2], expected));
  EXPECT_TRUE(at::equal(slices.at("conv.weight").Rows()[2],
                        network.store.Get("conv.weight")[2].to(at::kDouble).reshape({-1})));
  // No copies: a view of the whole network costs nothing.
  EXPECT_TRUE(slices.at("fc.weight").weight.is_alias_of(network.store.Get("fc.weight")));
}

TEST(GroupViewUnit, GroupedConvolutionColumnsAreCutPerBlock) {
  const Network network = GroupedNet();
  const Space space = BuildSpace(network);
  const int32_t group = space.FindGroup("a");
  ASSERT_GE(group, 0);
  const GroupView view = ViewGroups(space, network.store)[static_cast<size_t>(group)];
  const Tensor weight = network.store.Get("b.weight").to(at::kDouble);  // [6, 2, 3, 3]
  for (const auto& slice : view.slices) {
    if (slice.parameter != "b.weight") continue;
    // Unit 3 is offset 1 of block 1, whose rows are 3..5.
    const Tensor expected = weight.narrow(0, 3, 3).select(1, 1).reshape({-1});
    EXPECT_TRUE(at::equal(slice.Rows()[3], expected));
    EXPECT_NEAR(slice.SumPowers(1)[3].item<double>(), expected.abs().sum().item<double>(), 1e-12);
    return;
  }
  FAIL() << "the grouped convolution reads the group";
}

/// Sums straight from storage are those of the gathered rows, for every kind of member.
void ExpectSumsOfRows(const Network& network) {
  const Space space = BuildSpace(network);
  for (const GroupView& view : ViewGroups(space, network.store)) {
    for (const GroupView::Slice& slice : view.slices) {
      SCOPED_TRACE(view.name + " " + slice.parameter);
      const Tensor rows = slice.Rows();
      const auto expect = [&](const Tensor& actual, const Tensor& expected) {
        EXPECT_EQ(actual.scalar_type(), at::kDouble);
        EXPECT_TRUE(at::allclose(actual, expected, 1e-12, 1e-12)) << actual << expected;
      };
      expect(slice.layout.Sum(slice.weight), rows.sum(1));
      expect(slice.SumPowers(1), rows.abs().sum(1));
      expect(slice.SumPowers(2), rows.square().sum(1));
      expect(slice.SumPowers(1.5), rows.abs().pow(1.5).sum(1));
      expect(slice.layout.SumPowers(slice.weight.to(at::kDouble), 1), rows.abs().sum(1));
      const Tensor half = slice.weight.to(at::kHalf);
      expect(slice.layout.SumPowers(half, 1), slice.layout.Gather(half).abs().sum(1));
    }
  }
}

TEST(UnitLayoutUnit, SumsStraightFromStorageEqualThoseOfGatheredRows) {
  ExpectSumsOfRows(FlattenNet());
  ExpectSumsOfRows(GroupedNet());
  ExpectSumsOfRows(CalibratedNetwork(1).network());
}

TEST(AxisSumsUnit, SumsBothAxesByHand) {
  // Two blocks of rows: columns of rows 0..1 and of rows 2..3 apart.
  const Tensor weight = at::tensor({1.0, -2.0, 3.0, 4.0, -5.0, 6.0, 7.0, 8.0}).view({4, 2});
  for (const auto type : {at::kFloat, at::kDouble, at::kHalf, at::kBFloat16}) {
    AxisSums sums(weight.to(type), 2);
    EXPECT_EQ(sums.Of(0, 1), (std::vector<double>{3, 7, 11, 15}));
    EXPECT_EQ(sums.Of(1, 1), (std::vector<double>{4, 6, 12, 14}));
    EXPECT_EQ(sums.Of(1, 2), (std::vector<double>{10, 20, 74, 100}));
  }
}

TEST(UnitLayoutUnit, SumsDoNotDependOnTheNumberOfThreads) {
  Rng rng(1);
  const Tensor weight = RandomTensor(rng, {300, 400, 3, 3});
  Member member{.parameter = "w", .axis = 1, .role = MemberRole::kConsumer, .indices = {}};
  for (int64_t i = 399; i >= 0; --i) member.indices.push_back(i);  // no run of two
  const UnitLayout layout("g", 400, member);
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const Tensor one = layout.SumPowers(weight, 1);
  AxisSums shared(weight, 1);
  const Tensor from_shared = layout.SumPowers(shared, weight, 1);
  at::set_num_threads(3);
  const Tensor three = layout.SumPowers(weight, 1);
  AxisSums shared_by_three(weight, 1);
  const Tensor from_three = layout.SumPowers(shared_by_three, weight, 1);
  at::set_num_threads(threads);
  EXPECT_TRUE(at::equal(one, three));
  EXPECT_TRUE(at::equal(from_shared, from_three));
  EXPECT_TRUE(at::allclose(one, from_shared, 1e-12));
  EXPECT_TRUE(at::allclose(one.flip(0), weight.to(at::kDouble).abs().sum({0, 2, 3}), 1e-12));
}

TEST(UnitLayoutUnit, UnitsTheMemberDoesNotTouchGetZeros) {
  const UnitLayout layout("g", 4, {.parameter = "w", .indices = {1, 0}, .first_unit = 1});
  const Tensor weight = at::tensor({1.0, -2.0}, at::kDouble).view({2, 1});
  EXPECT_TRUE(at::equal(layout.Sum(weight), at::tensor({0.0, -2.0, 1.0, 0.0}, at::kDouble)));
  EXPECT_TRUE(at::equal(layout.Gather(weight).squeeze(1), layout.Sum(weight)));
}

TEST(UnitLayoutUnit, WeightsOfAnotherNetworkAreNamed) {
  const UnitLayout layout("trunk", 3, {.parameter = "w", .indices = {0, 1, 7}});
  try {
    layout.Sum(at::ones({4, 2}));
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kModel);
    EXPECT_NE(error.message().find("'trunk'"), std::string::npos);
    EXPECT_NE(error.message().find("coordinate 7"), std::string::npos) << error.message();
  }
}

}  // namespace
}  // namespace espalier

#include "criteria/criterion.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "criteria/l1_norm.h"
#include "env/graph/builder.h"
#include "tests/support/criterion_conformance.h"

namespace espalier {
namespace {

INSTANTIATE_TEST_SUITE_P(All, CriterionConformance,
                         testing::ValuesIn(Registry<Criterion>::Global().Names()),
                         [](const auto& info) { return info.param; });

Tensor Doubles(const std::vector<double>& values, at::IntArrayRef sizes) {
  return at::tensor(values, at::kDouble).reshape(sizes);
}

GroupView HandView() {
  GroupView view{.name = "layer", .units = 2, .slices = {}};
  view.slices.push_back(
      {"conv.weight", MemberRole::kProducer, false, Doubles({1, -2, 0.5, 0}, {2, 2})});
  view.slices.push_back({"bn.weight", MemberRole::kChannel, false, Doubles({-3, 4}, {2, 1})});
  view.slices.push_back({"bn.bias", MemberRole::kChannel, true, Doubles({10, 20}, {2, 1})});
  view.slices.push_back({"next.weight", MemberRole::kConsumer, false, Doubles({2, -1}, {2, 1})});
  return view;
}

std::vector<double> L1(const L1NormConfig& config) {
  const Tensor scores = L1Norm(config).Score(HandView(), 0);
  return {scores[0].item<double>(), scores[1].item<double>()};
}

TEST(L1NormUnit, SumsAbsoluteWeightsOverTheWholeGroup) {
  // |1| + |-2| + |-3| + |2| = 8 and |0.5| + |0| + |4| + |-1| = 5.5
  EXPECT_EQ(L1({}), (std::vector<double>{8, 5.5}));
}

TEST(L1NormUnit, CountsWhatTheConfigSays) {
  EXPECT_EQ(L1({.members = "producer", .norms = false}), (std::vector<double>{3, 0.5}));
  EXPECT_EQ(L1({.members = "producer"}), (std::vector<double>{6, 4.5}));
  EXPECT_EQ(L1({.bias = true}), (std::vector<double>{18, 25.5}));
}

TEST(L1NormUnit, ReducesOverMembers) {
  // members: (3, 0.5), (3, 4), (2, 1)
  EXPECT_EQ(L1({.reduce = "max"}), (std::vector<double>{3, 4}));
  EXPECT_EQ(L1({.reduce = "prod"}), (std::vector<double>{18, 2}));
  EXPECT_EQ(L1({.reduce = "first"}), (std::vector<double>{3, 0.5}));
  const std::vector<double> mean = L1({.reduce = "mean"});
  EXPECT_DOUBLE_EQ(mean[0], 8.0 / 3);
  EXPECT_DOUBLE_EQ(mean[1], 5.5 / 3);
}

TEST(CriterionUnit, UnknownNamesGetASuggestion) {
  try {
    Registry<Criterion>::Global().Create("criterion", "l1_nrom");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kConfig);
    EXPECT_NE(error.hint().find("l1_norm"), std::string::npos) << error.hint();
  }
  EXPECT_THROW(ParseReduce("middle"), Error);
}

/// conv1 (3 -> 4) - bn - relu - flatten of 2x2 - linear (16 -> 3)
Network FlattenNet() {
  Builder b("flatten", 1);
  ValueId x = b.Input("x", {2, 3, 2, 2});
  x = b.Relu(b.BatchNorm2d("bn", b.Conv2d("conv", x, 3, 4, {.padding = 1, .bias = true}), 4));
  return b.Finish({b.Linear("fc", b.Flatten(x), 16, 3)});
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
  // Flatten: channel 2 of 4 owns the features 8..11 of the classifier.
  const Tensor expected =
      network.store.Get("fc.weight").narrow(1, 8, 4).to(at::kDouble).t().reshape({-1});
  EXPECT_TRUE(at::equal(slices.at("fc.weight").weight[2], expected));
  EXPECT_TRUE(at::equal(slices.at("conv.weight").weight[2],
                        network.store.Get("conv.weight")[2].to(at::kDouble).reshape({-1})));
}

TEST(GroupViewUnit, GroupedConvolutionColumnsAreCutPerBlock) {
  Builder b("grouped", 1);
  ValueId x = b.Input("x", {2, 3, 4, 4});
  x = b.Conv2d("a", x, 3, 4, {.padding = 1});
  x = b.Conv2d("b", x, 4, 6, {.padding = 1, .groups = 2});
  const Network network = b.Finish({b.Linear("fc", b.Flatten(b.GlobalAvgPool(x)), 6, 3)});
  const Space space = BuildSpace(network);
  const int32_t group = space.FindGroup("a");
  ASSERT_GE(group, 0);
  const GroupView view = ViewGroups(space, network.store)[static_cast<size_t>(group)];
  const Tensor weight = network.store.Get("b.weight").to(at::kDouble);  // [6, 2, 3, 3]
  for (const auto& slice : view.slices) {
    if (slice.parameter != "b.weight") continue;
    // Unit 3 is offset 1 of block 1, whose rows are 3..5.
    EXPECT_TRUE(at::equal(slice.weight[3], weight.narrow(0, 3, 3).select(1, 1).reshape({-1})));
    return;
  }
  FAIL() << "the grouped convolution reads the group";
}

/// Returns whatever a test wants to see rejected.
class Fixed final : public Criterion {
 public:
  explicit Fixed(std::vector<double> scores) : scores_(std::move(scores)) {}
  Tensor Score(const GroupView&, uint64_t) const override {
    return at::tensor(scores_, at::kDouble);
  }

 private:
  std::vector<double> scores_;
};

TEST(ScoreGroupsUnit, RejectsWrongCountsAndValuesThatAreNotFinite) {
  const Network network = FlattenNet();
  const Space space = BuildSpace(network);
  const auto score = [&](std::vector<double> scores) {
    return ScoreGroups(Fixed(std::move(scores)), space, network.store, 0);
  };
  EXPECT_EQ(score({1, 2, 3, 4})[0], (std::vector<double>{1, 2, 3, 4}));
  EXPECT_THROW(score({1, 2, 3}), Error);
  EXPECT_THROW(score({1, 2, 3, std::nan("")}), Error);
  EXPECT_THROW(score({1, 2, 3, -std::numeric_limits<double>::infinity()}), Error);
}

}  // namespace
}  // namespace espalier

#include "criteria/criterion.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "criteria/fpgm.h"
#include "criteria/l1_norm.h"
#include "criteria/l2_norm.h"
#include "env/graph/builder.h"
#include "tests/support/criterion_conformance.h"

namespace espalier {
namespace {

INSTANTIATE_TEST_SUITE_P(All, CriterionConformance,
                         testing::ValuesIn(Registry<Criterion>::Global().Names()),
                         [](const auto& info) { return info.param; });

using Values = std::vector<double>;

Tensor Doubles(const Values& values, at::IntArrayRef sizes) {
  return at::tensor(values, at::kDouble).reshape(sizes);
}

GroupView HandView() {
  GroupView view{.name = "layer", .units = 2, .slices = {}};
  const auto add = [&](const char* name, MemberRole role, const Values& values, bool bias) {
    view.slices.push_back(MakeSlice(name, role, Doubles(values, {2, -1}), bias));
  };
  add("conv.weight", MemberRole::kProducer, {1, -2, 0.5, 0}, false);
  add("bn.weight", MemberRole::kChannel, {-3, 4}, false);
  add("bn.bias", MemberRole::kChannel, {10, 20}, true);
  add("next.weight", MemberRole::kConsumer, {2, -1}, false);
  view.slices[1].is_norm = true;
  return view;
}

Values Score(const std::string& criterion, const GroupView& view) {
  const Tensor scores = MakeCriterion(criterion)->Score(view, 0).contiguous();
  return {scores.const_data_ptr<double>(), scores.const_data_ptr<double>() + scores.numel()};
}
Values Hand(const std::string& criterion) { return Score(criterion, HandView()); }

TEST(L1NormUnit, SumsAbsoluteWeightsOverTheWholeGroup) {
  // |1| + |-2| + |-3| + |2| = 8 and |0.5| + |0| + |4| + |-1| = 5.5
  EXPECT_EQ(Hand("l1_norm"), (Values{8, 5.5}));
}

TEST(L1NormUnit, CountsWhatTheConfigSays) {
  EXPECT_EQ(Hand("l1_norm(members=producer, norms=false)"), (Values{3, 0.5}));
  EXPECT_EQ(Hand("l1_norm(members = \"producer\")"), (Values{6, 4.5}));
  EXPECT_EQ(Hand("l1_norm(bias=true)"), (Values{18, 25.5}));
  EXPECT_EQ(Hand("l1_norm()"), Hand("l1_norm"));
}

TEST(L1NormUnit, ReducesOverMembers) {
  // members: (3, 0.5), (3, 4), (2, 1)
  EXPECT_EQ(Hand("l1_norm(reduce=max)"), (Values{3, 4}));
  EXPECT_EQ(Hand("l1_norm(reduce=prod)"), (Values{18, 2}));
  EXPECT_EQ(Hand("l1_norm(reduce=first)"), (Values{3, 0.5}));
  EXPECT_EQ(Hand("l1_norm(reduce=last)"), (Values{2, 1}));
  const Values mean = Hand("l1_norm(reduce=mean)");
  EXPECT_DOUBLE_EQ(mean[0], 8.0 / 3);
  EXPECT_DOUBLE_EQ(mean[1], 5.5 / 3);
}

TEST(L2NormUnit, SumsSquaresOrAnyPower) {
  // 1 + 4 + 9 + 4 = 18 and 0.25 + 0 + 16 + 1 = 17.25
  EXPECT_EQ(Hand("l2_norm"), (Values{18, 17.25}));
  EXPECT_EQ(Hand("l2_norm(p=1)"), Hand("l1_norm"));
  // 1 + 8 + 27 + 8 = 44 and 0.125 + 64 + 1 = 65.125
  EXPECT_EQ(Hand("l2_norm(p=3)"), (Values{44, 65.125}));
}

/// conv (1 -> 2, one weight each) - flatten of 2x2 - linear (8 -> 1): a channel has four columns.
TEST(L2NormUnit, FlattenedColumnsAreSummedInsideTheMemberFirst) {
  Builder b("toy", 1);
  const ValueId x = b.Conv2d("conv", b.Input("x", {2, 1, 2, 2}), 1, 2, {.kernel = 1});
  const Network network = b.Finish({b.Linear("fc", b.Flatten(x), 8, 1, false)});
  const Space space = BuildSpace(network);
  ParameterStore store = network.store.Clone();
  store.Set("conv.weight", at::tensor({3.F, -1.F}).view({2, 1, 1, 1}));
  store.Set("fc.weight", at::tensor({1.F, 2.F, 0.F, -2.F, 1.F, 1.F, 1.F, 1.F}).view({1, 8}));
  const auto score = [&](const std::string& reduce) {
    return ScoreGroups(*MakeCriterion("l2_norm(reduce=" + reduce + ")"), space, store, 0)[0];
  };
  // conv: 9 and 1; fc: 1 + 4 + 0 + 4 = 9 and 4
  EXPECT_EQ(score("sum"), (Values{18, 5}));
  EXPECT_EQ(score("mean"), (Values{9, 2.5}));
  EXPECT_EQ(score("max"), (Values{9, 4}));
  EXPECT_EQ(score("prod"), (Values{81, 4}));
  EXPECT_EQ(score("first"), (Values{9, 1}));
  EXPECT_EQ(score("last"), (Values{9, 4}));
}

TEST(LampUnit, IsTheSquareRelativeToAllLargerOnes) {
  // squares 18 and 17.25: the larger gets 1, the other 17.25 / (18 + 17.25)
  EXPECT_EQ(Hand("lamp"), (Values{1, 17.25 / 35.25}));
}

TEST(BatchNormScaleUnit, ReadsNormalisationsOnly) {
  EXPECT_EQ(Hand("batch_norm_scale"), (Values{3, 4}));
  GroupView without = HandView();
  without.slices[1].is_norm = false;
  try {
    Score("batch_norm_scale", without);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kModel);
    EXPECT_NE(error.message().find("'layer'"), std::string::npos) << error.message();
  }
}

TEST(FpgmUnit, OfThreePointsOnALineTheMiddleOneIsNearestToTheOthers) {
  GroupView view{.name = "line", .units = 3, .slices = {}};
  view.slices.push_back(MakeSlice("w", MemberRole::kProducer, Doubles({0, 1, 3}, {3, 1})));
  EXPECT_EQ(Score("fpgm", view), (Values{4, 3, 5}));
}

TEST(CriterionUnit, UnknownNamesGetASuggestion) {
  const auto hint = [](const std::string& text) {
    try {
      MakeCriterion(text);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kConfig);
      return error.message() + error.hint();
    }
    return std::string("accepted");
  };
  EXPECT_NE(hint("l1_nrom").find("l1_norm"), std::string::npos);
  EXPECT_NE(hint("l1_norm(redcue=max)").find("reduce"), std::string::npos);
  EXPECT_NE(hint("l1_norm(reduce=middle)").find("first"), std::string::npos);
  EXPECT_NE(hint("l1_norm(reduce=max").find("')' is missing"), std::string::npos);
  EXPECT_NE(hint("l1_norm(max)").find("key=value"), std::string::npos);
  EXPECT_NE(hint("l2_norm(p=0)").find("> 0"), std::string::npos);
  EXPECT_THROW(ParseReduce("middle"), Error);
}

/// Returns whatever a test wants to see rejected.
class Fixed final : public Criterion {
 public:
  explicit Fixed(Values scores) : scores_(std::move(scores)) {}
  Tensor Score(const GroupView&, uint64_t) const override {
    return at::tensor(scores_, at::kDouble);
  }

 private:
  Values scores_;
};

TEST(ScoreGroupsUnit, NamesGroupAndUnitOfWrongCountsAndValuesThatAreNotFinite) {
  Builder b("chain", 1);
  const ValueId x = b.Linear("hidden", b.Input("x", {2, 3}), 3, 4);
  const Network network = b.Finish({b.Linear("out", x, 4, 2)});
  const Space space = BuildSpace(network);
  const auto score = [&](Values scores) {
    return ScoreGroups(Fixed(std::move(scores)), space, network.store, 0);
  };
  const auto expect = [&](const Values& scores, const std::string& what) {
    try {
      score(scores);
      ADD_FAILURE() << "accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kModel);
      EXPECT_NE(error.message().find("group 'hidden'"), std::string::npos) << error.message();
      EXPECT_NE(error.message().find(what), std::string::npos) << error.message();
    }
  };
  EXPECT_EQ(score({1, 2, 3, 4})[0], (Values{1, 2, 3, 4}));
  expect({1, 2, 3}, "3 scores for 4 units");
  expect({1, 2, 3, std::nan("")}, "unit 3: score is nan");
  expect({1, -std::numeric_limits<double>::infinity(), 3, 4}, "unit 1: score is -inf");
}

}  // namespace
}  // namespace espalier

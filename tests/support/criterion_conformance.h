#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>

#include "criteria/criterion.h"

namespace espalier {

/// What every registered criterion must do; a room that registers one instantiates the suite:
///   INSTANTIATE_TEST_SUITE_P(All, CriterionConformance, testing::ValuesIn(
///       Registry<Criterion>::Global().Names()), [](const auto& info) { return info.param; });
class CriterionConformance : public testing::TestWithParam<std::string> {
 protected:
  std::unique_ptr<Criterion> Make() const {
    return Registry<Criterion>::Global().Create("criterion", GetParam());
  }
  bool HasFact(const std::string& fact) const {
    const auto& facts = Registry<Criterion>::Global().Find(GetParam())->info.facts;
    return std::find(facts.begin(), facts.end(), fact) != facts.end();
  }
  /// A producer, its batch-norm scale and a consumer of 16 units, drawn from the seed.
  static GroupView MakeView(uint64_t seed) {
    Rng rng(seed, 0, "criterion conformance");
    const auto draw = [&](int64_t elements) {
      Tensor weight = at::empty({16, elements}, at::kDouble);
      auto* values = weight.mutable_data_ptr<double>();
      for (int64_t i = 0; i < weight.numel(); ++i) values[i] = rng.Normal();
      return weight;
    };
    GroupView view{.name = "layer", .units = 16, .slices = {}};
    view.slices.push_back({"conv.weight", MemberRole::kProducer, false, draw(27)});
    view.slices.push_back({"bn.weight", MemberRole::kChannel, false, draw(1)});
    view.slices.push_back({"next.weight", MemberRole::kConsumer, false, draw(36)});
    return view;
  }
};

TEST_P(CriterionConformance, GivesOneFiniteScorePerUnit) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(seed);
    const Tensor scores = Make()->Score(MakeView(seed), seed);
    ASSERT_EQ(scores.sizes(), at::IntArrayRef({16}));
    EXPECT_EQ(scores.scalar_type(), at::kDouble);
    EXPECT_TRUE(scores.isfinite().all().item<bool>());
  }
}

TEST_P(CriterionConformance, IsDeterministicForASeed) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(seed);
    EXPECT_TRUE(at::equal(Make()->Score(MakeView(seed), 7), Make()->Score(MakeView(seed), 7)));
  }
}

TEST_P(CriterionConformance, FollowsChannelOrder) {
  if (HasFact(kIgnoresWeights)) GTEST_SKIP() << "the entry says that scores follow no weight";
  for (uint64_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(seed);
    const GroupView view = MakeView(seed);
    const std::vector<int64_t> permutation = Rng(seed, 1, "order").Permutation(16);
    const Tensor order = at::tensor(permutation, at::kLong);
    GroupView moved = view;
    for (GroupView::Slice& slice : moved.slices) slice.weight = slice.weight.index_select(0, order);
    const Tensor expected = Make()->Score(view, 7).index_select(0, order);
    EXPECT_TRUE(at::allclose(Make()->Score(moved, 7), expected, 1e-7, 1e-7));
  }
}

TEST_P(CriterionConformance, RejectsTheEmptyGroup) {
  EXPECT_THROW(Make()->Score({.name = "none", .units = 0, .slices = {}}, 0), Error);
  EXPECT_THROW(Make()->Score({.name = "bare", .units = 4, .slices = {}}, 0), Error);
}

TEST_P(CriterionConformance, DoesNotChangeTheWeights) {
  const GroupView view = MakeView(3), before = MakeView(3);
  Make()->Score(view, 7);
  for (size_t i = 0; i < view.slices.size(); ++i) {
    EXPECT_TRUE(at::equal(view.slices[i].weight, before.slices[i].weight));
  }
}

TEST_P(CriterionConformance, SaysWhereItComesFrom) {
  const EntryInfo& info = Registry<Criterion>::Global().Find(GetParam())->info;
  EXPECT_FALSE(info.summary.empty());
  EXPECT_FALSE(info.source.empty());
}

}  // namespace espalier

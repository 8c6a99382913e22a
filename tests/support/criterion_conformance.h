#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>

#include "criteria/criterion.h"
#include "tests/support/calibrated_network.h"

namespace espalier {

/// What every registered criterion must do; a room that registers one instantiates the suite:
///   INSTANTIATE_TEST_SUITE_P(All, CriterionConformance, testing::ValuesIn(
///       Registry<Criterion>::Global().Names()), [](const auto& info) { return info.param; });
class CriterionConformance : public testing::TestWithParam<std::string> {
 protected:
  std::unique_ptr<Criterion> Make() const { return MakeCriterion(GetParam()); }
  const EntryInfo& info() const { return Registry<Criterion>::Global().Find(GetParam())->info; }
  bool HasFact(const std::string& fact) const {
    return std::find(info().facts.begin(), info().facts.end(), fact) != info().facts.end();
  }
  static void ExpectNear(const std::vector<double>& actual, const std::vector<double>& expected) {
    ASSERT_EQ(actual.size(), expected.size());
    double largest = 0;
    for (const double value : expected) largest = std::max(largest, std::abs(value));
    // float32 sums in another order, 6e-8 each, through the inverse of a matrix with a ridge of
    // 1/100: 10 such errors are 6e-5 of the largest score.
    for (size_t i = 0; i < actual.size(); ++i)
      EXPECT_NEAR(actual[i], expected[i], 6e-5 * std::max(largest, 1.0)) << "unit " << i;
  }
};

TEST_P(CriterionConformance, GivesOneFiniteScorePerUnitWithAnyChoiceOfItsOptions) {
  std::vector<std::string> texts = {GetParam()};
  Registry<Criterion>::Global().Find(GetParam())->describe([&](const Schema& schema) {
    for (const Field& field : schema.fields()) {
      for (const std::string& choice : field.choices)
        texts.push_back(Str(GetParam(), "(", field.name, "=", choice, ")"));
      if (std::holds_alternative<bool*>(field.target))
        for (const char* value : {"true", "false"})
          texts.push_back(Str(GetParam(), "(", field.name, "=", value, ")"));
    }
  });
  const CalibratedNetwork calibrated(1);
  for (const std::string& text : texts) {
    SCOPED_TRACE(text);
    const auto scores = calibrated.Score(*MakeCriterion(text), calibrated.network().store);
    ASSERT_EQ(scores.size(), 2U);  // finite: ScoreGroups checks
    EXPECT_EQ(scores[0].size(), 6U);
    EXPECT_EQ(scores[1].size(), 5U);
  }
}

TEST_P(CriterionConformance, IsDeterministicForASeed) {
  for (uint64_t seed = 0; seed < 3; ++seed) {
    SCOPED_TRACE(seed);
    const CalibratedNetwork calibrated(seed);
    const ParameterStore& store = calibrated.network().store;
    EXPECT_EQ(calibrated.Score(*Make(), store), calibrated.Score(*Make(), store));
  }
}

TEST_P(CriterionConformance, FollowsUnitOrder) {
  if (HasFact(kIgnoresWeights)) GTEST_SKIP() << "the entry says that scores follow no weight";
  for (uint64_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(seed);
    const CalibratedNetwork calibrated(seed);
    const auto expected = calibrated.Score(*Make(), calibrated.network().store);
    for (size_t group = 0; group < expected.size(); ++group) {
      const std::vector<int64_t> order =
          Rng(seed, group, "order").Permutation(static_cast<int64_t>(expected[group].size()));
      const auto moved = calibrated.Score(*Make(), calibrated.Permuted(group, order));
      std::vector<double> wanted;
      for (const int64_t unit : order) wanted.push_back(expected[group][static_cast<size_t>(unit)]);
      ExpectNear(moved[group], wanted);
      ExpectNear(moved[1 - group], expected[1 - group]);  // the function is the same
    }
  }
}

TEST_P(CriterionConformance, SaysWhatItNeeds) {
  const CalibratedNetwork calibrated(2);
  const auto criterion = Make();
  const auto without = [&] {
    return ScoreGroups(*criterion, calibrated.space(), calibrated.network().store, 0);
  };
  EXPECT_EQ(criterion->needs().empty(), HasFact(kDataFree));
  if (criterion->needs().empty()) {
    EXPECT_EQ(without().size(), 2U);
    return;
  }
  try {
    without();
    FAIL() << "scored without statistics";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kConfig);
    EXPECT_NE(error.message().find(NeedName(*criterion->needs().begin())), std::string::npos)
        << error.message();
  }
}

TEST_P(CriterionConformance, RejectsTheEmptyGroup) {
  EXPECT_THROW(Make()->Score({.name = "none", .units = 0, .slices = {}}, 0), Error);
  EXPECT_THROW(Make()->Score({.name = "bare", .units = 4, .slices = {}}, 0), Error);
}

TEST_P(CriterionConformance, DoesNotChangeTheWeights) {
  const CalibratedNetwork calibrated(3);
  const std::string before = calibrated.network().WeightsHash();
  calibrated.Score(*Make(), calibrated.network().store);
  EXPECT_EQ(calibrated.network().WeightsHash(), before);
  for (const std::string& name : calibrated.network().store.names())
    EXPECT_FALSE(calibrated.network().store.Get(name).requires_grad()) << name;
}

TEST_P(CriterionConformance, SaysWhereItComesFrom) {
  EXPECT_FALSE(info().summary.empty());
  EXPECT_FALSE(info().source.empty());
}

}  // namespace espalier

#include "criteria/taylor.h"

#include <gtest/gtest.h>

#include "criteria/criterion.h"
#include "tests/criteria/hand_net.h"

namespace espalier {
namespace {

// w g of the hand net at x = (1, 1): unit 0: a (2, -4), b (-2); unit 1: a (-3, -0.5), b (-3.5).
// At -x all signs are the other way round.

TEST(TaylorMixedUnit, EverySampleHasItsOwnExpansion) {
  const HandNet net;
  // One sample: the same as with the mean gradient, which is its own.
  EXPECT_EQ(net.Score("taylor(mode=mixed, accumulate=sample)", {kOne}), (Values{16, 17.75}));
  EXPECT_EQ(net.Score("taylor(mode=mixed)", {kOne}), (Values{16, 17.75}));
  // At -x: |-2 - 2| + |4 - 8| + |2 - 2| = 8 and |3 - 4.5| + |.5 - .125| + |3.5 - 6.125| = 4.5
  const Values both = {(16 + 8) / 2.0, (17.75 + 4.5) / 2};
  EXPECT_EQ(net.Score("taylor(mode=mixed, accumulate=sample)", {-kOne}), (Values{8, 4.5}));
  EXPECT_EQ(net.Score("taylor(mode=mixed, accumulate=sample)", {kBoth}), both);
  EXPECT_EQ(net.Score("taylor(mode=mixed, accumulate=sample)", {kOne, -kOne}), both);
  // The mean gradient is 0 there: w^2 F / 2 alone, 24 / 2 and 21.5 / 2.
  EXPECT_EQ(net.Score("taylor(mode=mixed, accumulate=signed)", {kBoth}), (Values{12, 10.75}));
  EXPECT_EQ(net.Score("taylor(mode=mixed)", {kBoth}), (Values{12, 10.75}));
}

TEST(TaylorElement2Unit, IsOfSamplesWhetherThatIsSaidOrNot) {
  const HandNet net;
  EXPECT_EQ(net.Score("taylor(mode=element_2)", {kBoth}), (Values{24, 21.5}));
  EXPECT_EQ(net.Score("taylor(mode=element_2, accumulate=sample)", {kBoth}), (Values{24, 21.5}));
}

TEST(TaylorUnit, WhatAModeDoesNotKnowIsAnErrorThatSaysSo) {
  for (const std::string options :
       {"mode=element_2, accumulate=signed", "mode=element_2, accumulate=batch",
        "mode=mixed, accumulate=batch"}) {
    SCOPED_TRACE(options);
    try {
      MakeCriterion("taylor(" + options + ")");
      ADD_FAILURE() << "accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kConfig);
      EXPECT_NE(error.message().find(options), std::string::npos) << error.message();
      EXPECT_NE(error.hint().find("accumulate=s"), std::string::npos) << error.hint();
    }
  }
}

TEST(NeedsUnit, AreAskedOfTheCriterionAndOfEachOptionThatChangesThem) {
  const NeedsSheet sheet = NeedsOf("taylor");
  EXPECT_EQ(NeedsText(sheet.defaults), "gradient");
  std::map<std::string, std::string> with;
  for (const auto& [option, needs] : sheet.with) with[option] = NeedsText(needs);
  EXPECT_EQ(with, (std::map<std::string, std::string>{{"mode=element_2", "sample gradient"},
                                                      {"mode=mixed", "gradient, sample gradient"},
                                                      {"accumulate=sample", "sample gradient"}}));
  EXPECT_EQ(NeedsText(NeedsOf("l1_norm").defaults), "none");
  EXPECT_TRUE(NeedsOf("l1_norm").with.empty());
  EXPECT_EQ(NeedsText(NeedsOf("obs").defaults), "forward, gram");
  EXPECT_EQ(NeedsText(NeedsOf("ablation").defaults), "ablation");
}

}  // namespace
}  // namespace espalier

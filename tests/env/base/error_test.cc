#include "env/base/error.h"

#include <gtest/gtest.h>

#include "env/base/rng.h"

namespace espalier {
namespace {

TEST(ErrorUnit, EveryKindHasItsExitCodeAndName) {
  // The table of exit codes of the command line.
  const std::vector<std::tuple<ErrorKind, const char*, int>> table = {
      {ErrorKind::kUsage, "usage", 2},
      {ErrorKind::kConfig, "config", 2},
      {ErrorKind::kModel, "model", 3},
      {ErrorKind::kData, "data", 3},
      {ErrorKind::kIo, "io", 3},
      {ErrorKind::kBudget, "budget", 4},
      {ErrorKind::kTrials, "trials", 5},
      {ErrorKind::kResource, "resource", 6},
      {ErrorKind::kDevice, "device", 3},
      {ErrorKind::kInterrupted, "interrupted", 75},
      {ErrorKind::kInternal, "internal", 1},
  };
  for (const auto& [kind, name, code] : table) {
    EXPECT_STREQ(ErrorKindName(kind), name);
    EXPECT_EQ(ExitCode(kind), code) << name;
  }
}

TEST(ErrorUnit, CarriesKindMessageAndHint) {
  const Error error(ErrorKind::kBudget, "macs 3M cannot be met", "the least is 4M");
  EXPECT_EQ(error.kind(), ErrorKind::kBudget);
  EXPECT_STREQ(error.what(), "macs 3M cannot be met");
  EXPECT_EQ(error.hint(), "the least is 4M");
}

TEST(ErrorUnit, NearestNameForgivesTypingSlips) {
  const std::vector<std::string> known = {"hidden_sizes", "learning_rate", "sgd", "adamw"};
  EXPECT_EQ(NearestName("hiden_sizes", known), "hidden_sizes");     // a letter lost
  EXPECT_EQ(NearestName("learning_raet", known), "learning_rate");  // neighbours swapped
  EXPECT_EQ(NearestName("SGD", known), "sgd");                      // case
  EXPECT_EQ(NearestName("adam", known), "adamw");
  EXPECT_EQ(NearestName("momentum", known), "");  // another word altogether
  EXPECT_EQ(NearestName("x", {}), "");
}

TEST(ErrorUnit, SuggestNameListsTheKnownNamesWhenNoneIsNear) {
  EXPECT_EQ(SuggestName("sdg", {"sgd", "adamw"}), "did you mean 'sgd'?");
  EXPECT_EQ(SuggestName("momentum", {"sgd", "adamw"}), "known: sgd, adamw");
  std::vector<std::string> many;
  for (int i = 0; i < 15; ++i) many.push_back(Str("name", i));
  EXPECT_EQ(SuggestName("momentum", many),
            "known: name0, name1, name2, name3, name4, name5, name6, name7, name8, name9, name10, "
            "name11 and 3 more");
}

TEST(ErrorUnit, FailedCheckIsAnInternalErrorWithPlaceConditionAndDetail) {
  const int groups = 0;
  try {
    ESPALIER_CHECK(groups > 0, "groups is ", groups);
    FAIL() << "the check let it through";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInternal);
    EXPECT_NE(error.message().find("error_test.cc:"), std::string::npos) << error.message();
    EXPECT_NE(error.message().find("groups > 0: groups is 0"), std::string::npos)
        << error.message();
  }
  EXPECT_NO_THROW(ESPALIER_CHECK(groups == 0));
}

TEST(ErrorProperty, AChangedLetterOfALongNameIsAlwaysRepaired) {
  // The names differ from each other in more than two letters, so one slip stays nearest to its
  // own.
  const std::vector<std::string> known = {"temperature", "regularisation", "entropy_bonus",
                                          "population"};
  for (uint64_t seed = 0; seed < 40; ++seed) {
    Rng rng(seed);
    const std::string& name = known[rng.Index(known.size())];
    std::string typed = name;
    typed[rng.Index(typed.size())] = 'x';
    EXPECT_EQ(NearestName(typed, known), name) << "seed " << seed << ", typed " << typed;
  }
}

}  // namespace
}  // namespace espalier

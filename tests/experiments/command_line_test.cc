#include "experiments/command_line.h"

#include <gtest/gtest.h>

#include "env/base/error.h"
#include "experiments/commands/commands.h"
#include "experiments/error_text.h"

namespace espalier {
namespace {

void AddOptions(OptionList& add) {
  add.Text("out", "DIR", "", "a folder");
  add.Integer("limit", "N", 7, "a count");
  add.Real("ratio", "R", 0.5, "a ratio");
  add.List("set", "A=B", "overrides");
  add.Flag("plain", "a flag");
}

const Command kCommand = {.name = "probe",
                          .usage = "MODEL",
                          .summary = "a command of this test",
                          .detail = {},
                          .examples = {},
                          .least_positional = 1,
                          .most_positional = 1,
                          .add_options = AddOptions};

Error ErrorOf(const std::vector<std::string>& line) {
  try {
    ParseLine(kCommand, line);
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "no error";
  return Error(ErrorKind::kInternal, "");
}

TEST(CommandLineUnit, ReadsEveryTypeAndKeepsCommasOfOverrides) {
  const auto line = ParseLine(kCommand, {"net", "--set", "a.b=[1, 2]", "--set=c=d", "--limit", "-3",
                                         "--ratio=0.25", "--plain"});
  EXPECT_EQ(line.positional(), std::vector<std::string>{"net"});
  EXPECT_EQ(line.List("set"), (std::vector<std::string>{"a.b=[1, 2]", "c=d"}));
  EXPECT_EQ(line.Integer("limit"), -3);
  EXPECT_EQ(line.Real("ratio"), 0.25);
  EXPECT_TRUE(line.Has("plain"));
  EXPECT_FALSE(line.Has("out"));
  EXPECT_EQ(line.Text("out"), "");
  EXPECT_EQ(line.Line(),
            "espalier probe net --set 'a.b=[1, 2]' --set=c=d --limit -3 --ratio=0.25 "
            "--plain");
}

TEST(CommandLineUnit, DefaultsHoldWhenNothingIsGiven) {
  const auto line = ParseLine(kCommand, {"net"});
  EXPECT_EQ(line.Integer("limit"), 7);
  EXPECT_EQ(line.Real("ratio"), 0.5);
  EXPECT_TRUE(line.List("set").empty());
  EXPECT_FALSE(line.json());
}

TEST(CommandLineUnit, UnknownOptionNamesTheNearestOne) {
  const Error error = ErrorOf({"net", "--limt", "3"});
  EXPECT_EQ(error.kind(), ErrorKind::kUsage);
  EXPECT_NE(error.message().find("'--limt'"), std::string::npos) << error.message();
  EXPECT_NE(error.hint().find("'--limit'"), std::string::npos) << error.hint();
}

TEST(CommandLineUnit, WrongTypesMissingAndSurplusWordsAreUsageErrors) {
  EXPECT_NE(ErrorOf({"net", "--limit", "3.5"}).message().find("a whole number"), std::string::npos);
  EXPECT_NE(ErrorOf({"net", "--ratio", "half"}).message().find("a number"), std::string::npos);
  EXPECT_NE(ErrorOf({}).message().find("MODEL is missing"), std::string::npos);
  EXPECT_NE(ErrorOf({"net", "more"}).message().find("'more' is one word too many"),
            std::string::npos);
  EXPECT_EQ(ErrorOf({"net", "--out"}).kind(), ErrorKind::kUsage);
}

TEST(CommandLineUnit, EveryCommandHasHelpWithExamples) {
  for (const Command* command : AllCommands()) {
    SCOPED_TRACE(command->name);
    EXPECT_FALSE(command->summary.empty());
    ASSERT_FALSE(command->examples.empty());
    for (const auto& example : command->examples)
      EXPECT_TRUE(example.starts_with("espalier " + command->name)) << example;
  }
}

TEST(ErrorTextUnit, FollowsTheHouseForm) {
  const auto text = [](const Error& error) {
    return DescribeFailure(std::make_exception_ptr(error));
  };
  const auto config = text(Error(ErrorKind::kConfig, "unknown key 'a'\n  --> x.toml:3", "try 'b'"));
  EXPECT_EQ(config.text, "error: unknown key 'a'\n  --> x.toml:3\n  help: try 'b'\n");
  EXPECT_EQ(config.exit_code, 2);
  EXPECT_EQ(text(Error(ErrorKind::kBudget, "no")).exit_code, 4);
  EXPECT_EQ(text(Error(ErrorKind::kInterrupted, "now")).exit_code, 75);
  EXPECT_EQ(DescribeFailure(std::make_exception_ptr(std::bad_alloc())).exit_code, 6);
  EXPECT_EQ(DescribeFailure(std::make_exception_ptr(std::runtime_error("x"))).exit_code, 1);
}

TEST(TextTableUnit, ColumnsOfNumbersAreFlushRight) {
  TextTable table({"name", "n", "meaning"});
  table.Add({"a", "1", "one"});
  table.Add({"long", "22", "2 times 11"});
  EXPECT_EQ(table.Text(), "name   n  meaning\na      1  one\nlong  22  2 times 11\n");
  TextTable bare({});
  bare.Add({"x", "5"});
  EXPECT_EQ(bare.Text("- "), "- x  5\n");
}

}  // namespace
}  // namespace espalier

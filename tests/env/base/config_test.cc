#include "env/base/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "env/base/error.h"
#include "env/base/files.h"

namespace espalier {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

struct Target {
  bool ema = false;
  int64_t batches = 200;
  double lr = 0.1;
  std::string optimizer = "sgd";
  std::vector<int64_t> steps = {};
  std::vector<double> weights = {};
  std::vector<std::string> names = {};
  std::optional<Quantity> macs = {};
};

Schema Describe(Target& target) {
  return Schema()
      .Add("ema", &target.ema, "keep an average")
      .Add("batches", &target.batches, "training batches", {.low = 1, .high = 1000})
      .Add("lr", &target.lr, "learning rate", {.low = 0, .open_low = true})
      .Add("optimizer", &target.optimizer, "which", {"sgd", "adamw"})
      .Add("steps", &target.steps, "epochs")
      .Add("weights", &target.weights, "of the losses")
      .Add("names", &target.names, "names")
      .Add("macs", &target.macs, "bound");
}

std::vector<std::string> Read(const ConfigDocument& document, Target& target) {
  std::vector<std::string> problems;
  document.Section("strategy").ReadInto(Describe(target), {"name"}, problems);
  return problems;
}

/// The problems of one [strategy] key, whose line is quick.toml:2.
std::vector<std::string> ProblemsOf(const std::string& line) {
  Target target;
  return Read(ConfigDocument::Parse("[strategy]\n" + line, "quick.toml"), target);
}

Error Caught(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "nothing was thrown";
  return Error(ErrorKind::kInternal, "");
}

TEST(ConfigUnit, ReadsEveryTypeAndKeepsDefaults) {
  Target target;
  const auto document = ConfigDocument::Parse(R"([strategy]
name = "autobot"
ema = true
batches = 7
lr = 1
steps = [3, 5]
weights = [1, 0.5]
names = ["a", "b"]
macs = 0.5
)",
                                              "quick.toml");
  EXPECT_THAT(Read(document, target), IsEmpty());
  EXPECT_TRUE(target.ema);
  EXPECT_EQ(target.batches, 7);
  EXPECT_EQ(target.lr, 1.0);  // an integer is a number
  EXPECT_EQ(target.optimizer, "sgd");
  EXPECT_THAT(target.steps, ElementsAre(3, 5));
  EXPECT_THAT(target.weights, ElementsAre(1.0, 0.5));
  EXPECT_THAT(target.names, ElementsAre("a", "b"));
  EXPECT_EQ(target.macs, (Quantity{0.5, true}));

  const ConfigSection section = document.Section("strategy");
  EXPECT_EQ(section.GetString("name"), "autobot");
  EXPECT_EQ(section.GetString("absent"), std::nullopt);
  EXPECT_THROW(section.GetString("batches"), Error);
  EXPECT_EQ(section.Origin("batches"), "quick.toml:4");
  EXPECT_EQ(section.Origin("optimizer"), "default");
  EXPECT_TRUE(section.Has("ema"));
  EXPECT_FALSE(section.Has("optimizer"));
  EXPECT_EQ(section.name(), "strategy");
  EXPECT_EQ(section.keys().size(), 8u);
}

TEST(ConfigUnit, AbsentAndEmptySectionsAreAllDefaults) {
  Target target;
  std::vector<std::string> problems;
  ConfigSection().ReadInto(Describe(target), {}, problems);
  ConfigDocument::Parse("", "e.toml").Section("strategy").ReadInto(Describe(target), {}, problems);
  EXPECT_THAT(problems, IsEmpty());
  EXPECT_EQ(target.batches, 200);
  EXPECT_FALSE(ConfigSection().Has("x"));
  EXPECT_THAT(ConfigSection().keys(), IsEmpty());
  EXPECT_EQ(ConfigSection().Origin("x"), "default");
  EXPECT_EQ(ConfigDocument().sections().size(), 0u);
}

TEST(ConfigUnit, UnknownKeyGetsPlaceAndSuggestion) {
  EXPECT_THAT(ProblemsOf("bathces = 3"),
              ElementsAre("unknown config key 'strategy.bathces'\n  --> quick.toml:2\n"
                          "  help: did you mean 'batches'?"));
  EXPECT_THAT(ProblemsOf("nmae = \"autobot\""), ElementsAre(HasSubstr("did you mean 'name'?")));
  EXPECT_THAT(ProblemsOf("temperature = 3"),
              ElementsAre(HasSubstr("known: ema, batches, lr, optimizer, steps")));
  EXPECT_THAT(ProblemsOf("inner = {x = 1}"), ElementsAre(HasSubstr("'strategy.inner'")));
}

TEST(ConfigUnit, WrongTypesNameExpectedFoundAndPlace) {
  EXPECT_THAT(
      ProblemsOf("batches = \"many\""),
      ElementsAre("config key 'strategy.batches': wrong type: expected integer, found string "
                  "'many'\n  --> quick.toml:2\n  help: training batches"));
  const std::vector<std::array<std::string, 2>> cases = {
      {"batches = 3.0", "expected integer, found number 3.0"},
      {"batches = true", "expected integer, found boolean true"},
      {"ema = 1", "expected boolean, found integer 1"},
      {"lr = \"0.1\"", "expected number, found string '0.1'"},
      {"optimizer = 3", "expected string, found integer 3"},
      {"optimizer = [\"sgd\"]", "expected string, found list"},
      {"steps = 3", "expected list of integers, found integer 3"},
      {"steps = [1, 2.5]", "expected list of integers, found number 2.5"},
      {"weights = [\"a\"]", "expected list of numbers, found string 'a'"},
      {"names = [1]", "expected list of strings, found integer 1"},
      {"macs = [1]", "expected fraction or amount, found list"},
      {"macs = true", "expected fraction or amount, found boolean true"},
      {"lr = 2024-01-01", "expected number, found date or time 2024-01-01"},
      {"lr = {a = 1}", "expected number, found table"},
  };
  for (const auto& [line, expected] : cases)
    EXPECT_THAT(ProblemsOf(line), ElementsAre(HasSubstr(expected))) << line;
}

TEST(ConfigUnit, OutOfRangeNamesTheAllowedValues) {
  const std::vector<std::array<std::string, 2>> cases = {
      {"batches = 0", "0 is not allowed: must be in [1, 1000]"},
      {"batches = 1001", "1001 is not allowed: must be in [1, 1000]"},
      {"lr = 0", "0 is not allowed: must be > 0"},
      {"lr = nan", "is not allowed"},
      {"lr = inf", "is not allowed"},
      {"optimizer = \"adam\"", "must be one of sgd, adamw (did you mean 'adamw'?)"},
      {"optimizer = \"momentum\"", "'momentum' is not allowed: must be one of sgd, adamw"},
      {"macs = 0", "0 is not allowed: must be > 0"},
      {"macs = -0.5", "-0.5 is not allowed: must be > 0"},
      {"macs = \"5 apples\"", "'5 apples' is not an amount"},
  };
  for (const auto& [line, expected] : cases)
    EXPECT_THAT(ProblemsOf(line), ElementsAre(HasSubstr(expected))) << line;
  EXPECT_THAT(ProblemsOf("batches = 1"), IsEmpty());
  EXPECT_THAT(ProblemsOf("batches = 1000"), IsEmpty());
}

TEST(ConfigUnit, ABadValueLeavesTheTargetAlone) {
  Target target{.batches = 5, .steps = {1}};
  Read(ConfigDocument::Parse("[strategy]\nbatches = 0\nsteps = [7, \"x\"]\n", "q"), target);
  EXPECT_EQ(target.batches, 5);
  EXPECT_THAT(target.steps, ElementsAre(1));
}

TEST(ConfigUnit, AllProblemsAreReportedAtOnce) {
  const auto document = ConfigDocument::Parse(
      "strateg = 1\n[strategy]\nbathces = 3\nlr = -1\nema = 2\n[finetunee]\n", "quick.toml");
  Target target;
  std::vector<std::string> problems = Read(document, target);
  document.CheckSections({"strategy", "finetune"}, problems);
  EXPECT_EQ(problems.size(), 5u);
  const Error error = Caught([&] { ThrowIfProblems(problems); });
  EXPECT_EQ(error.kind(), ErrorKind::kConfig);
  EXPECT_THAT(error.message(), HasSubstr("5 problems in the config\n"));
  for (const char* part : {"'strategy.bathces'\n  --> quick.toml:3", "'strategy.lr'",
                           "'strategy.ema'", "unknown config key 'strateg'\n  --> quick.toml:1",
                           "unknown config table 'finetunee'\n  --> quick.toml:6\n  help: did you "
                           "mean 'finetune'?"})
    EXPECT_THAT(error.message(), HasSubstr(part));
  EXPECT_NO_THROW(ThrowIfProblems({}));
  EXPECT_EQ(Caught([] { ThrowIfProblems({"one"}); }).message(), "one");
}

TEST(ConfigUnit, AKeyWhereATableBelongsIsReportedOnce) {
  const auto document = ConfigDocument::Parse("strategy = 3\n", "quick.toml");
  Target target;
  std::vector<std::string> problems;
  document.CheckSections({"strategy"}, problems);
  document.Section("strategy").ReadInto(Describe(target), {}, problems);
  EXPECT_THAT(problems, ElementsAre(HasSubstr("'strategy' must be a table, found integer")));
}

TEST(ConfigUnit, NestedTablesAreSectionsOfTheirOwn) {
  const auto document =
      ConfigDocument::Parse("[strategy.inner]\nbatches = 4\n", "q.toml", {"strategy.inner.lr=2"});
  Target target;
  std::vector<std::string> problems;
  const ConfigSection inner = document.Section("strategy.inner");
  inner.ReadInto(Describe(target), {}, problems);
  EXPECT_THAT(problems, IsEmpty());
  EXPECT_EQ(target.batches, 4);
  EXPECT_EQ(target.lr, 2);
  EXPECT_EQ(inner.Origin("batches"), "q.toml:2");
}

TEST(ConfigUnit, SyntaxErrorsNameLineAndColumn) {
  const Error error = Caught([] { ConfigDocument::Parse("[a]\nx = 1\ny = = 2\n", "bad.toml"); });
  EXPECT_EQ(error.kind(), ErrorKind::kConfig);
  EXPECT_THAT(error.message(), HasSubstr("--> bad.toml:3:5"));
  EXPECT_THAT(Caught([] { ConfigDocument::Parse("a = 1\na = 2\n", "bad.toml"); }).message(),
              HasSubstr("--> bad.toml:2"));
}

TEST(ConfigUnit, QuotedKeysMayHoldDots) {
  const auto document = ConfigDocument::Parse("\"a.b\" = 1\n[\"c.d\"]\nx = 1\n", "q.toml");
  std::vector<std::string> problems;
  document.CheckSections({"strategy"}, problems);
  EXPECT_THAT(problems, testing::UnorderedElementsAre(HasSubstr("unknown config key 'a.b'"),
                                                      HasSubstr("unknown config table 'c.d'")));
}

TEST(ConfigUnit, DepthThatWouldOverflowTheStackIsRefused) {
  std::string key = "a", value = "1";
  for (int i = 0; i < 300'000; ++i) key += ".a";
  value = std::string(300'000, '[');
  const auto message = [](const std::string& text) {
    const Error error = Caught([&] { ConfigDocument::Parse(text, "deep.toml"); });
    EXPECT_EQ(error.kind(), ErrorKind::kConfig);
    return error.message();
  };
  const auto place = testing::AllOf(HasSubstr("more than 16 parts"), HasSubstr("deep.toml:2"));
  EXPECT_THAT(message("x = 1\n" + key + " = 1\n"), place);
  EXPECT_THAT(message("x = 1\n[" + key + "]\n"), place);
  // Strings do not count, wherever they end: a block may have up to two quotes more.
  EXPECT_THAT(message("x = '''a'''\n" + key + " = 1\n"), place);
  EXPECT_THAT(message("x = {y = \"\"\"\n\"\"\"\"\", " + key + " = 1}\n"), place);
  EXPECT_THAT(message("\nx = {y = \"\\\"\", " + key + " = 1}\n"), place);
  EXPECT_THAT(message("x = " + value), HasSubstr("nested deeper than 16 levels"));
  std::string dots = "x = [";
  for (int i = 0; i < 100; ++i) dots += "0.5, ";
  EXPECT_NO_THROW(ConfigDocument::Parse(dots + "]\ny = '" + key + "' # " + key + "\n", "q.toml"));
}

TEST(ConfigUnit, OverridesWinAndSaySo) {
  const auto document = ConfigDocument::Parse(
      "[strategy]\nbatches = 7\noptimizer = \"sgd\"\n", "quick.toml",
      {"strategy.batches=9", "strategy.optimizer=adamw", "strategy.steps=[1, 2]",
       "strategy.macs = 55.84M", "strategy.ema=true", "strategy.lr=1e-3", "run.out=a=b"});
  Target target;
  EXPECT_THAT(Read(document, target), IsEmpty());
  EXPECT_EQ(target.batches, 9);
  EXPECT_EQ(target.optimizer, "adamw");  // a bare word is a string
  EXPECT_THAT(target.steps, ElementsAre(1, 2));
  EXPECT_EQ(target.macs, (Quantity{55.84 * 1e6, false}));
  EXPECT_TRUE(target.ema);
  EXPECT_EQ(target.lr, 1e-3);
  EXPECT_EQ(document.Section("strategy").Origin("batches"), "--set");
  EXPECT_EQ(document.Section("run").GetString("out"), "a=b");
}

TEST(ConfigUnit, OverrideOfAStringMayLookLikeANumber) {
  const auto document = ConfigDocument::Parse("", "q.toml", {"run.out=007", "run.tag=2024-01-01"});
  EXPECT_EQ(document.Section("run").GetString("out"), "007");
  EXPECT_EQ(document.Section("run").GetString("tag"), "2024-01-01");
}

TEST(ConfigUnit, ProblemsOfOverridesPointToSet) {
  Target target;
  EXPECT_THAT(Read(ConfigDocument::Parse("", "q", {"strategy.bathces=3"}), target),
              ElementsAre("unknown config key 'strategy.bathces'\n  --> --set\n"
                          "  help: did you mean 'batches'?"));
  for (const char* bad :
       {"strategy.batches", "=3", ".x=3", "a.=3", "a..b=3", "strategy.steps=[1, 2",
        "strategy.optimizer=\"sgd", "strategy.batches.deep=3", "include=x.toml"}) {
    const Error error =
        Caught([&] { ConfigDocument::Parse("[strategy]\nbatches = 7\n", "q.toml", {bad}); });
    EXPECT_EQ(error.kind(), ErrorKind::kConfig) << bad;
    EXPECT_THAT(error.message(), HasSubstr("--> --set")) << bad;
  }
}

class ConfigFileUnit : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / Str("espalier_config_", ::getpid());
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }
  fs::path Write(const std::string& name, const std::string& text) {
    WriteFileAtomic(folder_ / name, text);
    return folder_ / name;
  }
  fs::path folder_;
};

TEST_F(ConfigFileUnit, LaterKeysWinOverIncludedOnesAndKeepTheirOrigins) {
  Write("common/base.toml",
        "[strategy]\nbatches = 1\nlr = 0.5\nsteps = [1, 2, 3]\n[data]\nroot = \"cifar\"\n");
  Write("common/more.toml", "[strategy]\nlr = 0.75\n");
  const fs::path main = Write("runs/main.toml",
                              "include = [\"../common/base.toml\", \"../common/more.toml\"]\n"
                              "[strategy]\nbatches = 2\nsteps = [4]\n[run]\nout = \"here\"\n");
  const auto document = ConfigDocument::Load(main, {"model.file=net.pt2"});
  Target target;
  EXPECT_THAT(Read(document, target), IsEmpty());
  EXPECT_EQ(target.batches, 2);
  EXPECT_EQ(target.lr, 0.75);
  EXPECT_THAT(target.steps, ElementsAre(4));  // lists are replaced, not joined
  const ConfigSection section = document.Section("strategy");
  EXPECT_EQ(section.Origin("batches"), main.string() + ":3");
  EXPECT_EQ(section.Origin("lr"), (folder_ / "common/more.toml").string() + ":2");
  EXPECT_THAT(document.sections(),
              testing::UnorderedElementsAre("data", "model", "run", "strategy"));
  EXPECT_EQ(document.path(), main);

  // Each path is relative to the file that names it; overrides to the current folder.
  EXPECT_EQ(document.ResolvePath("data", "root", "cifar"), folder_ / "common/cifar");
  EXPECT_EQ(document.ResolvePath("run", "out", "here"), folder_ / "runs/here");
  EXPECT_EQ(document.ResolvePath("model", "file", "net.pt2"), "net.pt2");
  EXPECT_EQ(document.ResolvePath("data", "root", "/abs/x"), "/abs/x");
}

TEST_F(ConfigFileUnit, BadIncludesNameThePlace) {
  const auto message = [&](const std::string& text) {
    const fs::path path = Write("main.toml", text);
    const Error error = Caught([&] { ConfigDocument::Load(path); });
    EXPECT_EQ(error.kind(), ErrorKind::kConfig) << text;
    return error.message();
  };
  const std::string here = "--> " + (folder_ / "main.toml").string();
  EXPECT_THAT(message("x = 1\ninclude = \"absent.toml\"\n"),
              testing::AllOf(HasSubstr("cannot include 'absent.toml'"), HasSubstr(here + ":2")));
  EXPECT_THAT(message("include = 3\n"), HasSubstr(here + ":1"));
  EXPECT_THAT(message("include = [\"a\", 3]\n"), HasSubstr(here + ":1"));
  EXPECT_THAT(message("include = \"main.toml\"\n"), HasSubstr("includes itself"));
  std::string many = "include = [\"base.toml\"";
  for (int i = 0; i < 100; ++i) many += ", \"base.toml\"";
  Write("base.toml", "x = 1\n");
  EXPECT_THAT(message(many + "]\n"), HasSubstr("64"));
  Write("broken.toml", "x = \n");
  EXPECT_THAT(message("include = \"broken.toml\"\n"), HasSubstr("broken.toml:1"));
}

TEST_F(ConfigFileUnit, MissingFileIsAnInputError) {
  const Error error = Caught([&] { ConfigDocument::Load(folder_ / "absent.toml"); });
  EXPECT_EQ(error.kind(), ErrorKind::kIo);
  EXPECT_THAT(error.message(), HasSubstr("absent.toml"));
}

TEST_F(ConfigFileUnit, TheSameFileMayBeIncludedByTwoOthers) {
  Write("base.toml", "[strategy]\nbatches = 1\n");
  Write("a.toml", "include = \"base.toml\"\n[strategy]\nlr = 2\n");
  Write("b.toml", "include = \"base.toml\"\n");
  Target target;
  EXPECT_THAT(Read(ConfigDocument::Load(Write("main.toml", "include = [\"a.toml\", \"b.toml\"]\n")),
                   target),
              IsEmpty());
  EXPECT_EQ(target.batches, 1);
  EXPECT_EQ(target.lr, 2);
}

}  // namespace
}  // namespace espalier

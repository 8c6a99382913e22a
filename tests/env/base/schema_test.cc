#include <gtest/gtest.h>

#include <cmath>

#include "env/base/config.h"
#include "env/base/error.h"
#include "env/base/registry.h"
#include "env/base/rng.h"

namespace espalier {
namespace {

TEST(QuantityUnit, ReadsFractionsAndAmounts) {
  EXPECT_EQ(ParseQuantity("0.5"), (Quantity{0.5, true}));
  EXPECT_EQ(ParseQuantity("1"), (Quantity{1, true}));
  EXPECT_EQ(ParseQuantity("2"), (Quantity{2, false}));
  EXPECT_EQ(ParseQuantity("1e6"), (Quantity{1e6, false}));
  EXPECT_EQ(ParseQuantity("640k"), (Quantity{640e3, false}));
  EXPECT_EQ(ParseQuantity("640K"), (Quantity{640e3, false}));
  EXPECT_EQ(ParseQuantity("55.84M"), (Quantity{55.84 * 1e6, false}));
  EXPECT_EQ(ParseQuantity("1.2G"), (Quantity{1.2 * 1e9, false}));
  EXPECT_EQ(ParseQuantity("0.0005k"), (Quantity{0.5, false}));  // half a millisecond, say
}

TEST(QuantityUnit, RefusesAnythingElse) {
  for (const char* bad : {"", "M", "0", "-1", "-0.5", "5MM", "5 M", "5m", "nan", "inf", "1e400",
                          "0x10", "55,84M", "half"}) {
    try {
      ParseQuantity(bad);
      ADD_FAILURE() << "accepted '" << bad << "'";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kConfig);
      EXPECT_NE(error.message().find(Str("'", bad, "'")), std::string::npos) << error.message();
    }
  }
}

TEST(QuantityUnit, PrintsShortText) {
  EXPECT_EQ(ToString({0.5, true}), "0.5");
  EXPECT_EQ(ToString({55.84e6, false}), "55.84M");
  EXPECT_EQ(ToString({1.5e12, false}), "1.5T");
  EXPECT_EQ(ToString({640, false}), "640");
  EXPECT_EQ(ToString({125485706, false}), "125485706");  // no short form is exact
  EXPECT_EQ(ToString({0.5, false}), "0.0005k");          // "0.5" would be a fraction
}

TEST(QuantityProperty, TextReadsBackExactly) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    Rng rng(seed);
    const bool is_fraction = rng.Index(2) == 0;
    const double value = is_fraction ? rng.Uniform() + 1e-6 : std::exp(rng.Uniform(0.1, 30));
    if (value > 1 && is_fraction) continue;
    const Quantity quantity{rng.Index(3) ? value : std::ceil(value * 100) / 100, is_fraction};
    EXPECT_EQ(ParseQuantity(ToString(quantity)), quantity)
        << "seed " << seed << ": " << ToString(quantity);
  }
}

struct Sample {
  bool ema = false;
  int64_t batches = 200;
  double lr = 0.1;
  double momentum = 1;
  std::string optimizer = "sgd";
  std::string free = "a \"quoted\" \\ line\n\x01";
  std::vector<int64_t> steps = {1, 2};
  std::vector<double> weights = {1, 0.5};
  std::vector<std::string> names = {};
  std::optional<Quantity> macs = {};
};

Schema Describe(Sample& sample) {
  return Schema()
      .Add("ema", &sample.ema, "keep an average")
      .Add("batches", &sample.batches, "training batches", {.low = 1})
      .Add("lr", &sample.lr, "learning rate", {.low = 0, .high = 1, .open_low = true})
      .Add("momentum", &sample.momentum, "momentum")
      .Add("optimizer", &sample.optimizer, "which", {"sgd", "adamw"})
      .Add("free", &sample.free, "any text")
      .Add("steps", &sample.steps, "epochs")
      .Add("weights", &sample.weights, "of the losses")
      .Add("names", &sample.names, "names")
      .Add("macs", &sample.macs, "bound");
}

TEST(SchemaUnit, SaysTypeValueAndRangeOfEveryKindOfField) {
  Sample sample;
  const Schema schema = Describe(sample);
  const std::vector<std::array<std::string, 3>> expected = {
      {"boolean", "false", ""},
      {"integer", "200", ">= 1"},
      {"number", "0.1", "in (0, 1]"},
      {"number", "1.0", ""},
      {"string", "\"sgd\"", "one of sgd, adamw"},
      {"string", R"("a \"quoted\" \\ line\n\u0001")", ""},
      {"list of integers", "[1, 2]", ""},
      {"list of numbers", "[1.0, 0.5]", ""},
      {"list of strings", "[]", ""},
      {"fraction or amount", "", ""},
  };
  ASSERT_EQ(schema.fields().size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    const Field& field = schema.fields()[i];
    EXPECT_EQ(TypeName(field), expected[i][0]) << field.name;
    EXPECT_EQ(CurrentValue(field), expected[i][1]) << field.name;
    EXPECT_EQ(RangeText(field), expected[i][2]) << field.name;
  }
}

TEST(SchemaUnit, RangesReadAsWritten) {
  double value = 0;
  int64_t count = 0;
  const Schema schema = Schema()
                            .Add("a", &value, "", {.low = 0, .open_low = true})
                            .Add("b", &value, "", {.high = 1, .open_high = true})
                            .Add("c", &value, "", {.low = -1, .high = 0.5})
                            .Add("d", &count, "", {.high = 7})
                            .Add("e", &count, "", {.low = 0, .high = 3});
  const std::vector<std::string> expected = {"> 0", "< 1", "in [-1, 0.5]", "<= 7", "in [0, 3]"};
  for (size_t i = 0; i < expected.size(); ++i)
    EXPECT_EQ(RangeText(schema.fields()[i]), expected[i]);
}

TEST(SchemaUnit, DumpNamesOriginsAndReadsBack) {
  const auto document = ConfigDocument::Parse(
      "[finetune]\nname = \"plain\"\nbatches = 3\nmacs = \"5M\"\nsteps = [9]\n", "a.toml",
      {"finetune.lr=0.25"});
  Sample sample;
  std::vector<std::string> problems;
  document.Section("finetune").ReadInto(Describe(sample), {"name"}, problems);
  ThrowIfProblems(problems);
  const std::string dump = DumpToml("finetune", Describe(sample), document.Section("finetune"));
  EXPECT_EQ(dump,
            "[finetune]\n"
            "name = \"plain\"  # a.toml:2\n"
            "ema = false  # default\n"
            "batches = 3  # a.toml:3\n"
            "lr = 0.25  # --set\n"
            "momentum = 1.0  # default\n"
            "optimizer = \"sgd\"  # default\n"
            "free = \"a \\\"quoted\\\" \\\\ line\\n\\u0001\"  # default\n"
            "steps = [9]  # a.toml:5\n"
            "weights = [1.0, 0.5]  # default\n"
            "names = []  # default\n"
            "macs = \"5M\"  # a.toml:4\n");

  Sample again{.momentum = 7, .free = "", .names = {"x"}};
  ConfigDocument::Parse(dump, "dump.toml")
      .Section("finetune")
      .ReadInto(Describe(again), {"name"}, problems);
  ThrowIfProblems(problems);
  EXPECT_EQ(again.free, sample.free);
  EXPECT_EQ(again.names, sample.names);
  EXPECT_EQ(again.macs, sample.macs);
  EXPECT_EQ(again.momentum, 1);
  EXPECT_EQ(again.lr, 0.25);
}

class Fruit {
 public:
  virtual ~Fruit() = default;
  virtual std::string Taste() const = 0;
};
struct PearConfig {
  std::string taste = "sweet";
};
Schema Describe(PearConfig& config) {
  return Schema().Add("taste", &config.taste, "how", {"sweet", "sour"});
}
class Pear final : public Fruit {
 public:
  explicit Pear(const PearConfig& config) : config_(config) {}
  std::string Taste() const override { return config_.taste; }

 private:
  const PearConfig config_;
};
const Registration<Fruit, Pear, PearConfig> pear({.name = "pear",
                                                  .summary = "grows on espaliers",
                                                  .source = "ours"});

TEST(RegistryUnit, CreatesByNameFromASection) {
  const auto& registry = Registry<Fruit>::Global();
  EXPECT_EQ(registry.Names(), std::vector<std::string>{"pear"});
  EXPECT_EQ(registry.Create("fruit", "pear")->Taste(), "sweet");
  const auto section = [](const char* text) {
    return ConfigDocument::Parse(text, "f.toml").Section("fruit");
  };
  const ConfigSection sour = section("[fruit]\nname = \"pear\"\ntaste = \"sour\"");
  EXPECT_EQ(registry.Create("fruit", "pear", sour)->Taste(), "sour");
  EXPECT_EQ(registry.Get("fruit", "pear").dump(sour),
            "[fruit]\nname = \"pear\"  # f.toml:2\ntaste = \"sour\"  # f.toml:3\n");
  EXPECT_THROW(registry.Create("fruit", "pear", section("[fruit]\ntast = \"sour\"")), Error);
  EXPECT_EQ(registry.Get("fruit", "pear").info.source, "ours");
}

TEST(RegistryUnit, UnknownNamesGetASuggestionAndDuplicatesFail) {
  auto& registry = Registry<Fruit>::Global();
  EXPECT_EQ(registry.Find("apple"), nullptr);
  try {
    registry.Create("fruit", "paer");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kConfig);
    EXPECT_EQ(error.message(), "unknown fruit 'paer'");
    EXPECT_EQ(error.hint(), "did you mean 'pear'?");
  }
  using Again = Registration<Fruit, Pear, PearConfig>;
  EXPECT_THROW(Again({.name = "pear", .summary = "", .source = ""}), Error);
}

}  // namespace
}  // namespace espalier

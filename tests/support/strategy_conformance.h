#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <string>

#include "env/graph/builder.h"
#include "search/strategy.h"

namespace espalier {

/// A small residual network, made-up images and a budget: everything a strategy needs, in
/// milliseconds.
class TinyEnvironment {
 public:
  explicit TinyEnvironment(const BudgetConfig& budget = HalfMacs(), bool grouped = false)
      : network_(grouped ? MakeGrouped() : MakeResidual()),
        space_(BuildSpace(network_, {.decouple_residuals = true, .exclude = {}})),
        cost_(space_),
        budget_(cost_, budget),
        splits_(MakeSplits()) {}
  TinyEnvironment(const TinyEnvironment&) = delete;
  TinyEnvironment& operator=(const TinyEnvironment&) = delete;

  Environment Get() const {
    return {.space = space_, .cost = cost_, .budget = budget_, .splits = &splits_};
  }
  const Network& network() const { return space_.network(); }
  const Budget& budget() const { return budget_; }

  static BudgetConfig HalfMacs() {
    BudgetConfig config;
    config.macs = Quantity{0.5, true};
    config.convention = "autobot";
    return config;
  }

 private:
  static Network MakeResidual() {
    Builder b("tiny_resnet", 3);
    ValueId x = b.Input("x", {2, 3, 8, 8});
    x = b.Relu(b.BatchNorm2d("bn", b.Conv2d("stem", x, 3, 8, {.padding = 1}), 8));
    for (const std::string block : {"b1", "b2"}) {
      ValueId y = b.Conv2d(block + ".conv1", x, 8, 12, {.padding = 1});
      y = b.Relu(b.BatchNorm2d(block + ".bn1", y, 12));
      y = b.BatchNorm2d(block + ".bn2", b.Conv2d(block + ".conv2", y, 12, 8, {.padding = 1}), 8);
      x = b.Relu(b.Add(x, y));
    }
    return b.Finish({b.Linear("fc", b.Flatten(b.GlobalAvgPool(x)), 8, 3)});
  }
  static Network MakeGrouped() {
    Builder b("tiny_grouped", 3);
    ValueId x = b.Input("x", {2, 3, 8, 8});
    x = b.Relu(b.BatchNorm2d("bn", b.Conv2d("stem", x, 3, 16, {.padding = 1}), 16));
    x = b.Relu(b.Conv2d("grouped", x, 16, 24, {.padding = 1, .groups = 4}));
    x = b.Relu(b.Conv2d("last", x, 24, 12, {.padding = 1}));
    return b.Finish({b.Linear("fc", b.Flatten(b.GlobalAvgPool(x)), 12, 3)});
  }
  /// Class c is brightest in colour c: learnable, so that losses mean something.
  static ImageSet MakeImages(int64_t count, uint64_t seed) {
    Rng rng(seed, 0, "tiny images");
    ImageSet set{at::empty({count, 3, 8, 8}, at::kByte), at::empty({count}, at::kLong), 3};
    auto* pixel = set.images.mutable_data_ptr<uint8_t>();
    auto* label = set.labels.mutable_data_ptr<int64_t>();
    for (int64_t image = 0; image < count; ++image) {
      label[image] = static_cast<int64_t>(rng.Index(3));
      for (int64_t colour = 0; colour < 3; ++colour) {
        for (int64_t i = 0; i < 64; ++i) {
          *pixel++ = static_cast<uint8_t>(rng.Index(160) + (colour == label[image] ? 90 : 0));
        }
      }
    }
    return set;
  }
  static Splits MakeSplits() {
    DataConfig config;
    config.name = "cifar10";
    config.mean = {0.5, 0.5, 0.5};
    config.std = {0.25, 0.25, 0.25};
    return Splits(config, MakeImages(160, 1), MakeImages(32, 2), MakeImages(32, 3));
  }

  const Network network_;
  const Space space_;
  const CostModel cost_;
  const Budget budget_;
  const Splits splits_;
};

/// A folder of its own, removed at the end.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "espalier-XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("no temporary folder");
    path_ = pattern;
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

/// What every registered strategy must do.
class StrategyConformance : public testing::TestWithParam<std::string> {
 protected:
  static SearchResult RunOnce(const Environment& environment, uint64_t seed,
                              const std::filesystem::path& folder = {}) {
    SearchContext context{.seed = seed, .folder = folder};
    return Make()->Run(environment, context);
  }
  static std::unique_ptr<Strategy> Make() {
    return Registry<Strategy>::Global().Create("strategy", GetParam());
  }
};

TEST_P(StrategyConformance, SelectsWithinTheBudget) {
  BudgetConfig rounded = TinyEnvironment::HalfMacs();
  rounded.round_to = 2;
  BudgetConfig two = TinyEnvironment::HalfMacs();
  two.params = Quantity{0.4, true};
  for (const BudgetConfig& budget : {TinyEnvironment::HalfMacs(), rounded, two}) {
    const TinyEnvironment tiny(budget);
    const SearchResult result = RunOnce(tiny.Get(), 1);
    ASSERT_EQ(result.selection.size(), tiny.Get().space.groups().size());
    EXPECT_TRUE(tiny.budget().Feasible(KeptCounts(result.selection)));
    MakePlan(tiny.Get().space, result.selection);  // checks range, order and blocks
  }
}

TEST_P(StrategyConformance, BlocksKeepEqualNumbers) {
  const TinyEnvironment tiny(TinyEnvironment::HalfMacs(), /*grouped=*/true);
  const SearchResult result = RunOnce(tiny.Get(), 1);
  bool blocked = false;
  for (size_t g = 0; g < result.selection.size(); ++g) {
    const Group& group = tiny.Get().space.groups()[g];
    std::vector<int64_t> per_block(static_cast<size_t>(group.blocks), 0);
    for (const int64_t unit : result.selection[g]) {
      ++per_block[static_cast<size_t>(unit / (group.units / group.blocks))];
    }
    for (const int64_t count : per_block) EXPECT_EQ(count, per_block.front()) << group.name;
    blocked |= group.blocks > 1;
  }
  EXPECT_TRUE(blocked) << "the network should have a blocked group";
}

TEST_P(StrategyConformance, IsDeterministicForASeed) {
  const TinyEnvironment tiny;
  const SearchResult first = RunOnce(tiny.Get(), 5), again = RunOnce(tiny.Get(), 5);
  EXPECT_EQ(first.selection, again.selection);
  EXPECT_EQ(first.scores, again.scores);
}

TEST_P(StrategyConformance, ContinuesIdenticallyAfterAStop) {
  const TinyEnvironment tiny;
  const SearchResult whole = RunOnce(tiny.Get(), 5);
  const TemporaryFolder folder;
  SearchContext context{.seed = 5, .folder = folder.path()};
  int64_t asked = 0;
  context.stop = [&] { return ++asked == 8; };
  try {
    Make()->Run(tiny.Get(), context);
    EXPECT_LT(asked, 8) << "the stop request was ignored";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInterrupted) << error.what();
  }
  const SearchResult resumed = RunOnce(tiny.Get(), 5, folder.path());
  EXPECT_EQ(resumed.selection, whole.selection);
  EXPECT_EQ(resumed.scores, whole.scores);
}

TEST_P(StrategyConformance, ContinuesIdenticallyAfterACrash) {
  struct Crash {};
  const TinyEnvironment tiny;
  const SearchResult whole = RunOnce(tiny.Get(), 5);
  const TemporaryFolder folder;
  SearchContext context{.seed = 5, .folder = folder.path()};
  int64_t steps = 0;  // dies in the middle of a step, some steps after the last checkpoint
  context.metric = [&](int64_t, std::string_view, double) {
    if (++steps == 131) throw Crash();
  };
  try {
    Make()->Run(tiny.Get(), context);
    EXPECT_LT(steps, 131);
  } catch (const Crash&) {
  }
  const SearchResult resumed = RunOnce(tiny.Get(), 5, folder.path());
  EXPECT_EQ(resumed.selection, whole.selection);
  EXPECT_EQ(resumed.scores, whole.scores);
}

TEST_P(StrategyConformance, LeavesTheNetworkAsItWas) {
  const TinyEnvironment tiny;
  const std::string before = tiny.network().WeightsHash();
  RunOnce(tiny.Get(), 2);
  EXPECT_EQ(tiny.network().WeightsHash(), before);  // bit for bit, buffers included
  for (const std::string& name : tiny.network().store.names()) {
    EXPECT_FALSE(tiny.network().store.Get(name).requires_grad()) << name;
  }
}

TEST_P(StrategyConformance, SaysWhereItComesFrom) {
  const EntryInfo& info = Registry<Strategy>::Global().Find(GetParam())->info;
  EXPECT_FALSE(info.summary.empty());
  EXPECT_FALSE(info.source.empty());
}

}  // namespace espalier

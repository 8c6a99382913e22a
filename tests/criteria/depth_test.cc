#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "criteria/criterion.h"
#include "criteria/scope.h"
#include "env/base/error.h"
#include "env/graph/builder.h"
#include "env/graph/executor.h"
#include "tests/support/calibrated_network.h"

// Whole residual branches as units: [space] depth.

namespace espalier {
namespace {

using Values = std::vector<double>;
using Numbers = std::vector<int64_t>;

/// Two residual blocks of two convolutions and a classifier.
Network TwoBlocks(uint64_t seed) {
  Builder b("blocks", seed);
  ValueId x = b.Relu(b.Conv2d("stem", b.Input("x", {2, 3, 5, 5}), 3, 4, {.padding = 1}));
  for (const std::string block : {"one", "two"}) {
    const ValueId y = b.Relu(b.Conv2d(block + ".a", x, 4, 6, {.padding = 1}));
    x = b.Relu(b.Add(x, b.Conv2d(block + ".b", y, 6, 4, {.padding = 1})));
  }
  return b.Finish({b.Linear("fc", b.Flatten(b.GlobalAvgPool(x)), 4, 3)});
}

Calibration SomeBatches(uint64_t seed) {
  Rng rng(seed, 0, "depth");
  std::vector<Batch> batches;
  for (int64_t batch = 0; batch < 2; ++batch)
    batches.push_back({.inputs = {RandomTensor(rng, {4, 3, 5, 5})},
                       .targets = {at::tensor(Numbers{0, 1, 2, batch}, at::kLong)}});
  return CalibrationOf(std::move(batches));
}

TEST(DepthCriteriaProperty, AblationIsTheLossOfTheNetworkWithoutTheBranch) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(seed);
    const Space space = BuildSpace(TwoBlocks(seed), {.depth = true});
    ASSERT_EQ(space.branches().size(), 2U);
    const Calibration calibration = SomeBatches(seed);
    const auto loss = [&](const Network& network) {
      const at::NoGradGuard no_grad;
      double sum = 0;
      for (int64_t batch = 0; batch < 2; ++batch) {
        const Batch given = calibration.get(batch);
        sum += CrossEntropy({Forward(network, given.inputs[0])}, given).item<double>() / 2;
      }
      return sum;
    };
    const auto criterion = MakeCriterion("ablation");
    const ParameterStore& store = space.network().store;
    const Statistics statistics = CollectStatistics(space, store, criterion->needs(), calibration);
    const auto scores = ScoreGroups(*criterion, space, store, 0, &statistics);
    for (const Branch& branch : space.branches()) {
      const auto group = static_cast<size_t>(branch.group);
      Selection selection = KeepAll(space);
      selection[group].clear();
      const Network cut = Cut(space.network(), MakePlan(space, selection));
      EXPECT_LT(cut.graph.ops.size(), space.network().graph.ops.size());
      EXPECT_NEAR(scores[group][0], loss(cut) - loss(space.network()), 1e-6);
    }
  }
}

TEST(DepthCriteriaUnit, EveryCriterionScoresBranches) {
  const Space space = BuildSpace(TwoBlocks(1), {.depth = true});
  const ParameterStore& store = space.network().store;
  for (const std::string& name : Registry<Criterion>::Global().Names()) {
    if (name == "batch_norm_scale") continue;  // there is none to read
    SCOPED_TRACE(name);
    const auto criterion = MakeCriterion(name);
    const Statistics statistics =
        CollectStatistics(space, store, criterion->needs(), SomeBatches(1));
    const auto scores = ScoreGroups(*criterion, space, store, 0, &statistics);
    for (const Branch& branch : space.branches())
      EXPECT_EQ(scores[static_cast<size_t>(branch.group)].size(), 1U);
  }
  // By its definition: all weights of a branch.
  const auto scores = ScoreGroups(*MakeCriterion("l1_norm"), space, store, 0);
  const double expected = store.Get("one.a.weight").abs().sum().item<double>() +
                          store.Get("one.b.weight").abs().sum().item<double>();
  EXPECT_NEAR(scores[static_cast<size_t>(space.branches()[0].group)][0], expected, 1e-4);
}

/// 32 residual branches of 16 MACs each and nothing else that could go.
class ThirtyTwoBranches : public testing::Test {
 protected:
  ThirtyTwoBranches() : space_(BuildSpace(Make(), {.depth = true})), cost_(space_) {}
  static Network Make() {
    Builder b("deep", 1);
    ValueId x = b.Relu(b.Input("x", {2, 4}));
    for (int branch = 0; branch < 32; ++branch)
      x = b.Add(x, b.Linear(Str("blocks.", branch), x, 4, 4, false));
    return b.Finish({x});
  }
  /// order: lowest first, the rest above. Those that go when 26 of 32 may stay, ascending.
  Numbers Removed(const Numbers& order, const ScopeConfig& config) const {
    Scores scores(32, {100});
    for (size_t i = 0; i < order.size(); ++i)
      scores[static_cast<size_t>(order[i])][0] = static_cast<double>(i) + 1;
    BudgetConfig bounds;
    bounds.macs = Quantity{26.0 / 32, true};
    const Budget budget(cost_, bounds);
    const Ranking ranking = RankUnderBudget(space_, cost_, budget, scores, config);
    EXPECT_TRUE(budget.Feasible(ranking.kept));
    Numbers removed;
    for (size_t g = 0; g < 32; ++g)
      if (ranking.kept[g] == 0) removed.push_back(static_cast<int64_t>(g));
    return removed;
  }
  static ErrorKind KindOf(const std::function<void()>& call) {
    try {
      call();
    } catch (const Error& error) {
      return error.kind();
    }
    return ErrorKind::kInternal;
  }
  const Space space_;
  const CostModel cost_;
};
using ThirtyTwoBranchesUnit = ThirtyTwoBranches;

/// Published orders of LLaMA-7B's 32 blocks; arXiv:2402.02834 protects the first 4 and last 2.
TEST_F(ThirtyTwoBranchesUnit, ProtectedOnesAreNotChosen) {
  ASSERT_EQ(space_.groups().size(), 32U);
  const Numbers taylor = {0, 27, 24, 26, 25, 29, 28};
  const Numbers perplexity = {24, 26, 25, 10, 27, 13, 22, 14};
  for (const std::string scope : {"global", "global_per_cost", "isomorphic"}) {
    SCOPED_TRACE(scope);
    const ScopeConfig all{.scope = scope};
    const ScopeConfig inner{.scope = scope, .protect_first = 4, .protect_last = 2};
    EXPECT_EQ(Removed(taylor, all), (Numbers{0, 24, 25, 26, 27, 29}));  // the fatal block 0
    EXPECT_EQ(Removed(taylor, inner), (Numbers{24, 25, 26, 27, 28, 29}));
    EXPECT_EQ(Removed(perplexity, inner), (Numbers{10, 13, 24, 25, 26, 27}));
  }
}

TEST_F(ThirtyTwoBranchesUnit, ProtectionHoldsInEveryScopeOrSaysThatItCannot) {
  for (const std::string& scope : kScopeNames) {
    SCOPED_TRACE(scope);
    const Numbers removed =
        Removed({0, 1, 31, 30}, {.scope = scope, .protect_first = 10, .protect_last = 16});
    EXPECT_EQ(removed, (Numbers{10, 11, 12, 13, 14, 15}));
    EXPECT_EQ(
        KindOf([&] { Removed({}, {.scope = scope, .protect_first = 16, .protect_last = 11}); }),
        ErrorKind::kBudget);
  }
  EXPECT_EQ(KindOf([&] { Removed({}, {.protect_first = 30, .protect_last = 3}); }),
            ErrorKind::kConfig);
  const Space flat = BuildSpace(Make());
  const CostModel cost(flat);
  EXPECT_EQ(
      KindOf([&] { RankUnderBudget(flat, cost, Budget(cost, {}), {}, {.protect_first = 1}); }),
      ErrorKind::kConfig);
}

/// LLaMA-7B by its sizes; its weights share one number, so that they take no memory.
Network Llama(int64_t blocks) {
  constexpr int64_t kWidth = 4096, kHidden = 11008, kWords = 32000, kTokens = 2, kHeads = 32;
  Builder b("llama", 1);
  const auto matrix = [&](const std::string& name, at::IntArrayRef sizes) {
    return b.Parameter(name + ".weight", at::zeros({1}).expand(sizes));
  };
  const auto linear = [&](const std::string& name, ValueId x, int64_t in, int64_t out) {
    return b.Call("aten::linear", "", {{"input", x}, {"weight", matrix(name, {out, in})}}, name);
  };
  const auto norm = [&](const std::string& name, ValueId x) {
    return b.Call("aten::rms_norm", "",
                  {{"input", x},
                   {"normalized_shape", c10::IValue(Numbers{kWidth})},
                   {"weight", matrix(name, {kWidth})}},
                  name);
  };
  const auto shaped = [&](ValueId x, const Numbers& sizes) {
    return b.Call("aten::reshape", "", {{"self", x}, {"shape", c10::IValue(sizes)}});
  };
  const auto swapped = [&](ValueId x) {
    return b.Call("aten::transpose", "int",
                  {{"self", x}, {"dim0", c10::IValue(1)}, {"dim1", c10::IValue(2)}});
  };
  ValueId x = b.Call("aten::embedding", "",
                     {{"weight", matrix("embed", {kWords, kWidth})},
                      {"indices", b.Input("tokens", {1, kTokens}, at::kLong)}});
  for (int64_t block = 0; block < blocks; ++block) {
    const std::string name = Str("blocks.", block, ".");
    ValueId y = norm(name + "attention_norm", x);
    const auto heads = [&](const std::string& which) {
      return swapped(
          shaped(linear(name + which, y, kWidth, kWidth), {-1, kTokens, kHeads, kWidth / kHeads}));
    };
    const ValueId query = heads("q"), key = heads("k"), value = heads("v");
    y = b.Call("aten::scaled_dot_product_attention", "",
               {{"query", query}, {"key", key}, {"value", value}});
    y = shaped(swapped(y), {-1, kTokens, kWidth});
    x = b.Add(x, linear(name + "o", y, kWidth, kWidth), name + "attention");
    y = norm(name + "mlp_norm", x);
    const ValueId gate =
        b.Call("aten::silu", "", {{"self", linear(name + "gate", y, kWidth, kHidden)}});
    y = b.Call("aten::mul", "Tensor",
               {{"self", gate}, {"other", linear(name + "up", y, kWidth, kHidden)}});
    x = b.Add(x, linear(name + "down", y, kHidden, kWidth), name + "mlp");
  }
  return b.Finish({linear("head", norm("norm", x), kWidth, kWords)});
}

/// Kim et al., arXiv:2402.02834: parameters of LLaMA-7B and what is left without blocks.
TEST(DepthCostProperty, LlamaWithoutBlocksHasThePublishedNumberOfParameters) {
  const int64_t blocks = 32;
  const Space space = BuildSpace(Llama(blocks), {.depth = true});
  const CostModel cost(space);
  ASSERT_EQ(space.branches().size(), 2U * blocks);  // attention and feed-forward of each block
  Values kept(cost.units().begin(), cost.units().end());
  const auto params = [&] { return cost.Evaluate(kept).params; };
  const auto remove = [&](size_t block) {
    for (const size_t half : {2 * block, 2 * block + 1})
      kept[static_cast<size_t>(space.branches()[half].group)] = 0;
  };
  EXPECT_EQ(params(), 6738415616);
  remove(24);
  EXPECT_EQ(params(), 6536032256);
  EXPECT_EQ(6738415616 - 6536032256, 202383360);  // 4 * 4096^2 + 3 * 4096 * 11008 + 2 * 4096
  for (const size_t block : {26, 25, 10, 27, 13}) remove(block);
  EXPECT_EQ(params(), 5524115456);
}

}  // namespace
}  // namespace espalier

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <map>

#include "criteria/criterion.h"
#include "criteria/regularisers/regulariser.h"
#include "env/graph/builder.h"
#include "env/graph/executor.h"
#include "tests/support/calibrated_network.h"

// Heads, their dims and packed projections as criteria see them.

namespace espalier {
namespace {

constexpr int64_t kWidth = 16, kHeads = 4, kDim = 4, kLength = 5;

class AttentionNet {
 public:
  /// Queries and keys meet in a product written out, or in the fused operator; with fewer key heads
  /// than query heads these share them.
  AttentionNet(bool fused, int64_t key_heads, const std::string& attention) {
    Builder b("attention", 1);
    const ValueId x = b.Input("x", {2, kLength, 8});
    const auto heads = [&](const std::string& name, int64_t count) {
      const ValueId y = b.Linear(name, x, 8, count * kDim);
      const std::vector<int64_t> sizes = {-1, kLength, count, kDim};
      return Swap(b, b.Call("aten::reshape", "", {{"self", y}, {"shape", c10::IValue(sizes)}}), 1,
                  2);
    };
    query_ = heads("q", kHeads);
    key_ = heads("k", key_heads);
    const ValueId value = heads("v", key_heads);
    ValueId out;
    if (fused) {
      out = b.Call("aten::scaled_dot_product_attention", "",
                   {{"query", query_},
                    {"key", key_},
                    {"value", value},
                    {"enable_gqa", c10::IValue(key_heads != kHeads)}});
    } else {
      const ValueId scores =
          b.Call("aten::matmul", "", {{"self", query_}, {"other", Swap(b, key_, 2, 3)}});
      const ValueId weights =
          b.Call("aten::softmax", "int", {{"self", scores}, {"dim", c10::IValue(-1)}});
      out = b.Call("aten::matmul", "", {{"self", weights}, {"other", value}});
    }
    const std::vector<int64_t> merged = {-1, kLength, kWidth};
    out =
        b.Call("aten::reshape", "", {{"self", Swap(b, out, 1, 2)}, {"shape", c10::IValue(merged)}});
    out = b.Relu(b.Linear("proj", out, kWidth, 6));
    network_ = b.Finish({b.Linear("head", out, 6, 3)});
    space_ = BuildSpace(network_, {.attention = attention});
    Rng rng(1);
    std::vector<int64_t> labels;
    for (int i = 0; i < 2 * kLength; ++i) labels.push_back(static_cast<int64_t>(rng.Index(3)));
    batch_ = {.inputs = {RandomTensor(rng, {2, kLength, 8})},
              .targets = {at::tensor(labels, at::kLong).view({2, kLength})}};
  }

  std::map<std::string, std::vector<double>> Score(const std::string& text) const {
    const auto criterion = MakeCriterion(text);
    const Statistics statistics =
        CollectStatistics(space_, network_.store, criterion->needs(), CalibrationOf({batch_}));
    const auto scores = ScoreGroups(*criterion, space_, network_.store, 0, &statistics);
    std::map<std::string, std::vector<double>> by_name;
    for (size_t g = 0; g < scores.size(); ++g) by_name[space_.groups()[g].name] = scores[g];
    return by_name;
  }
  /// E x^2 of queries and keys by (head, dim): [heads * dim].
  std::pair<Tensor, Tensor> Energies() const {
    const at::NoGradGuard no_grad;
    Tensor query, key;
    const std::vector<Tap> taps = {{query_, [&](const Tensor& value) { query = value; }},
                                   {key_, [&](const Tensor& value) { key = value; }}};
    const Executor executor(network_.graph);
    executor.Run(executor.Bind(network_.store), batch_.inputs, {.taps = taps});
    const auto energy = [](const Tensor& value) {  // [B, H, T, D]
      return value.to(at::kDouble).square().mean({0, 2}).reshape({-1});
    };
    return {energy(query), energy(key)};
  }
  const Space& space() const { return space_; }
  const Network& network() const { return network_; }
  const Batch& batch() const { return batch_; }

 private:
  static ValueId Swap(Builder& b, ValueId x, int64_t first, int64_t second) {
    return b.Call("aten::transpose", "int",
                  {{"self", x}, {"dim0", c10::IValue(first)}, {"dim1", c10::IValue(second)}});
  }
  ValueId query_ = kNoValue, key_ = kNoValue;
  Network network_;
  Space space_;
  Batch batch_;
};

TEST(AttentionCriteriaUnit, EveryGranularityCanBeScored) {
  for (const bool fused : {false, true})
    for (const std::string attention : {"dims", "heads", "both"}) {
      const AttentionNet net(fused, kHeads, attention);
      for (const std::string criterion : {"l1_norm", "taylor", "taylor(mode=mixed)", "activation",
                                          "modegpt", "obs", "hrank", "wood_fisher", "ablation"}) {
        SCOPED_TRACE(Str(fused, " ", attention, " ", criterion));
        const auto scores = net.Score(criterion);  // finite: ScoreGroups checks
        EXPECT_EQ(scores.size(), net.space().groups().size());
      }
    }
}

TEST(AttentionCriteriaUnit, RegularisersPullHeadsAndDimsByTheirOwnWeights) {
  for (const int64_t key_heads : {kHeads, kHeads / 2})
    for (const std::string attention : {"dims", "heads", "both"}) {
      SCOPED_TRACE(Str(attention, ", key heads ", key_heads));
      const AttentionNet net(/*fused=*/true, key_heads, attention);
      const auto counts = [](const GroupView::Slice& slice) { return !slice.is_bias; };
      const ParameterStore& store = net.network().store;
      const Tensor sums = SquaredNorms(UnitWeights(net.space(), store, counts));
      std::vector<Tensor> wanted;
      for (const GroupView& view : ViewGroups(net.space(), store)) {
        wanted.push_back(at::zeros({view.units}, at::kDouble));
        for (const GroupView::Slice& slice : view.slices)
          if (counts(slice)) wanted.back() += slice.SumPowers(2);
      }
      EXPECT_TRUE(at::allclose(sums.to(at::kDouble), at::cat(wanted), 1e-5, 1e-6));
    }
}

TEST(AttentionCriteriaUnit, DimsOfQueriesAndKeysAreScoredByBothEnergies) {
  for (const bool fused : {false, true}) {
    SCOPED_TRACE(fused);
    const AttentionNet net(fused, kHeads, "dims");
    const auto [query, key] = net.Energies();
    const Tensor expected = (query * key).sqrt();
    const std::vector<double> scores = net.Score("modegpt").at("q");
    ASSERT_EQ(scores.size(), static_cast<size_t>(kWidth));
    for (int64_t i = 0; i < kWidth; ++i)
      EXPECT_NEAR(scores[static_cast<size_t>(i)], expected[i].item<double>(), 1e-6);
  }
}

TEST(AttentionCriteriaUnit, QueryHeadsThatShareAKeyAddUp) {
  const AttentionNet net(/*fused=*/true, 2, "dims");
  const auto [query, key] = net.Energies();
  const auto found = net.Score("modegpt");
  ASSERT_TRUE(found.contains("q"));
  const std::vector<double>& scores = found.at("q");
  ASSERT_EQ(scores.size(), static_cast<size_t>(2 * kDim));
  const Tensor shared = query.view({2, kHeads / 2, kDim}) * key.view({2, 1, kDim});
  const Tensor expected = shared.sum(1).sqrt().reshape({-1});
  for (int64_t i = 0; i < 2 * kDim; ++i)
    EXPECT_NEAR(scores[static_cast<size_t>(i)], expected[i].item<double>(), 1e-6);
}

TEST(AttentionCriteriaUnit, AHeadMasksAllItsDims) {
  const AttentionNet net(/*fused=*/true, kHeads, "heads");
  const auto scores = net.Score("ablation");
  ASSERT_TRUE(scores.contains("q.heads"));
  // Head 1 gone: the projection reads zeros in its columns.
  Network without = net.network();
  without.store = net.network().store.Clone();
  Tensor weight = without.store.Get("proj.weight").clone();
  weight.narrow(1, kDim, kDim).zero_();
  without.store.Set("proj.weight", weight);
  const auto loss = [&](const Network& network) {
    return CrossEntropy({Forward(network, net.batch().inputs[0])}, net.batch()).item<double>();
  };
  EXPECT_NEAR(scores.at("q.heads")[1], loss(without) - loss(net.network()), 1e-6);
}

}  // namespace
}  // namespace espalier

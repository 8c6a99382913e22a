#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "criteria/regularisers/regulariser.h"
#include "tests/support/attention_net.h"

// Heads, their dims and packed projections as criteria see them.

namespace espalier {
namespace {

constexpr int64_t kWidth = AttentionNet::kWidth, kHeads = AttentionNet::kHeads,
                  kDim = AttentionNet::kDim, kLength = AttentionNet::kLength;

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

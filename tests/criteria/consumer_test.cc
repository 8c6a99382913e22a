#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "criteria/criterion.h"
#include "criteria/modular.h"
#include "criteria/second_order.h"
#include "env/graph/executor.h"
#include "tests/criteria/hand_net.h"
#include "tests/support/calibrated_network.h"

// Criteria on what a group's consumers read.

namespace espalier {
namespace {

TEST(ActivationUnit, WeightedIsTheEnergyTimesTheWeightsThatReadIt) {
  // h = (-1, 3.5) and its negative, b = (2, -1): 1 * 4 and 12.25 * 1.
  EXPECT_EQ(HandNet().Score("activation(mode=weighted)", {kBoth}), (Values{4, 12.25}));
}

TEST(ActivationProperty, WeightedIsWhatTheUnitAddsToItsConsumersOutputs) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(seed);
    const CalibratedNetwork net(seed);
    const ParameterStore& store = net.network().store;
    const auto scores = net.Score(*MakeCriterion("activation(mode=weighted)"), store);
    // The classifier reads four features of each of the five channels.
    const Statistics statistics =
        CollectStatistics(net.space(), store, {Need::kGram}, net.calibration());
    const Tensor energy = statistics.grams.at("fc.weight").gram.diagonal();
    const Tensor columns = store.Get("fc.weight").to(at::kDouble).square().sum(0);
    const Tensor expected = (energy * columns).view({5, 4}).sum(1);
    for (int64_t unit = 0; unit < 5; ++unit)
      EXPECT_NEAR(scores[1][static_cast<size_t>(unit)], expected[unit].item<double>(),
                  1e-5 * expected.max().item<double>());
  }
}

TEST(StatisticsUnit, GramDiagonalsComeWithoutTheMatrices) {
  const CalibratedNetwork net(2);
  const ParameterStore& store = net.network().store;
  const auto collect = [&](const Needs& needs) {
    return CollectStatistics(net.space(), store, needs, net.calibration());
  };
  const Statistics diagonal = collect({Need::kGramDiagonal}), whole = collect({Need::kGram});
  for (const char* name : {"conv2.weight", "fc.weight"}) {
    EXPECT_FALSE(diagonal.grams.at(name).gram.defined());
    EXPECT_TRUE(
        at::allclose(diagonal.grams.at(name).diagonal, whole.grams.at(name).diagonal, 1e-5, 1e-6));
  }
  EXPECT_TRUE(whole.collected.contains(Need::kGramDiagonal)) << "it has them as well";
}

/// Two linear layers read the same two units: y = c (a x) and d (a x).
class TwoConsumers {
 public:
  TwoConsumers() {
    Builder b("two", 1);
    const ValueId h = b.Linear("a", b.Input("x", {2, 2}), 2, 2, false);
    network_ = b.Finish({b.Linear("c", h, 2, 1, false), b.Linear("d", h, 2, 1, false)});
    network_.store.Set("a.weight", at::eye(2));
    network_.store.Set("c.weight", at::tensor({2.F, 1.F}).view({1, 2}));
    network_.store.Set("d.weight", at::tensor({1.F, 3.F}).view({1, 2}));
    space_ = BuildSpace(network_);
  }
  /// x = (1, 0) and (0, 2): the second moments are diag(1, 4) / 2.
  Values Score(const std::string& text) const {
    const auto criterion = MakeCriterion(text);
    const Tensor x = at::tensor({1.F, 0.F, 0.F, 2.F}).view({2, 2});
    const Statistics statistics =
        CollectStatistics(space_, network_.store, criterion->needs(),
                          CalibrationOf({{.inputs = {x}, .targets = {}}}));
    return ScoreGroups(*criterion, space_, network_.store, 0, &statistics)[0];
  }

 private:
  Network network_;
  Space space_;
};

void ExpectNear(const Values& actual, const Values& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) EXPECT_NEAR(actual[i], expected[i], 1e-6) << i;
}

TEST(ReduceUnit, JoinsConsumersAsTheOptionSays) {
  const TwoConsumers net;
  // E x^2 = (.5, 2); c: 4 * .5 and 1 * 2, d: 1 * .5 and 9 * 2. Obs without damping is the same: H =
  // 2 C is diagonal and rho = w^2 H / 2.
  const Values c = {2, 2}, d = {.5, 18};
  const std::map<std::string, Values> expected = {{"sum", {2.5, 20}}, {"mean", {1.25, 10}},
                                                  {"max", {2, 18}},   {"prod", {1, 36}},
                                                  {"first", c},       {"last", d}};
  for (const auto& [reduce, values] : expected) {
    SCOPED_TRACE(reduce);
    ExpectNear(net.Score(Str("activation(mode=weighted, reduce=", reduce, ")")), values);
    ExpectNear(net.Score(Str("obs(damping=1e-12, reduce=", reduce, ")")), values);
  }
  ExpectNear(net.Score("obs(damping=1e-12)"), expected.at("sum"));
  // Leverages do not see the weights: lambda = .01 * 1.25, both consumers read the same inputs.
  const Values leverage = {.5 / .5125, 2 / 2.0125};
  ExpectNear(net.Score("modegpt"), {2 * leverage[0], 2 * leverage[1]});
  for (const std::string reduce : {"mean", "max", "first", "last"})
    ExpectNear(net.Score(Str("modegpt(reduce=", reduce, ")")), leverage);
  ExpectNear(net.Score("modegpt(reduce=prod)"),
             {leverage[0] * leverage[0], leverage[1] * leverage[1]});
}

TEST(ModegptUnit, ARotaryPairIsTheRootOfBothDimsProducts) {
  // Four dims of one head, i and i + 2 turn together: sqrt(C_q,i C_k,i + C_q,i' C_k,i').
  ReadStatistics statistics;
  statistics.energy = at::tensor({1.0, 4.0, 9.0, 16.0});
  statistics.partner_energy = at::tensor({4.0, 1.0, 1.0, 4.0});
  GroupView view{.name = "q", .kind = "head_dim", .units = 2, .slices = {}};
  view.slices.push_back(MakeSlice("q.weight", MemberRole::kProducer, at::ones({2, 3})));
  view.reads.push_back(
      {.statistics = &statistics, .op = "aten::matmul", .unit = {0, 1, 0, 1}, .units = 2});
  const Tensor scores = MakeCriterion("modegpt")->Score(view, 0);
  EXPECT_NEAR(scores[0].item<double>(), std::sqrt(1 * 4 + 9 * 1), 1e-6);
  EXPECT_NEAR(scores[1].item<double>(), std::sqrt(4 * 1 + 16 * 4), 1e-6);
  // The same dims read in a second attention: the squares are joined.
  view.reads.push_back(view.reads.front());
  const Tensor twice = MakeCriterion("modegpt")->Score(view, 0);
  EXPECT_NEAR(twice[0].item<double>(), std::sqrt(2.0 * 13), 1e-6);
  EXPECT_NEAR(MakeCriterion("modegpt(reduce=max)")->Score(view, 0)[0].item<double>(),
              std::sqrt(13.0), 1e-6);
}

TEST(ObsUnit, WhatNeverRunsCostsNothing) {
  // Unit 0 of the hand net is always 0: its column of b is dead and is worth nothing.
  HandNet net;
  Network network = net.network();
  network.store = network.store.Clone();
  network.store.Set("a.weight", at::tensor({0.F, 0.F, 3.F, 0.5F}).view({2, 2}));
  Calibration calibration = CalibrationOf({{.inputs = {kBoth}, .targets = {}}});
  const Statistics statistics =
      CollectStatistics(net.space(), network.store, {Need::kForward, Need::kGram}, calibration);
  for (const std::string text : {"obs", "obs(joint=false)"}) {
    const Values scores =
        ScoreGroups(*MakeCriterion(text), net.space(), network.store, 0, &statistics)[0];
    EXPECT_EQ(scores[0], 0);
    EXPECT_GT(scores[1], 0);
  }
}

TEST(SecondOrderUnit, DeadColumnsAreZeroAfterSparseGpt) {
  // Input 1 never runs: H_11 becomes 1 and the weights that read it 0; the others stay.
  const Tensor h = at::tensor({2.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 2.0}, at::kDouble);
  const Tensor w = at::tensor({1.0, -0.5, 0.8, 0.3, 7.0, -0.2}, at::kDouble).view({2, 3});
  const Tensor alive = WithoutDeadColumns(w, h.view({3, 3}));
  EXPECT_TRUE(
      at::equal(alive, at::tensor({1.0, 0.0, 0.8, 0.3, 0.0, -0.2}, at::kDouble).view({2, 3})));
  const Tensor upper = UpperFactor(Damp(h.view({3, 3}), 0.01));
  const SparseGptResult nothing = SparseGpt(alive, upper, at::zeros({2, 3}, at::kBool), 0);
  EXPECT_TRUE(at::equal(nothing.weight, alive));
  const SparseGptResult third = SparseGpt(alive, upper, {}, 1.0 / 3);  // the lowest third: free
  EXPECT_TRUE(at::equal(third.weight, alive));
  EXPECT_EQ(third.loss, 0);
}

TEST(ObsProperty, JointRemovalIsTheFormulaAndSinglesAddUp) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(seed);
    const CalibratedNetwork net(seed);
    const ParameterStore& store = net.network().store;
    const Statistics statistics =
        CollectStatistics(net.space(), store, {Need::kForward, Need::kGram}, net.calibration());
    const Tensor& gram = statistics.grams.at("fc.weight").gram;
    const Tensor inverse = InverseOf(Damp(2 * gram, 0.01));
    const Tensor w = WithoutDeadColumns(store.Get("fc.weight").to(at::kDouble), gram);
    const auto joint = ScoreGroups(*MakeCriterion("obs"), net.space(), store, 0, &statistics)[1];
    const auto single =
        ScoreGroups(*MakeCriterion("obs(joint=false)"), net.space(), store, 0, &statistics)[1];
    const Tensor costs = RemovalCosts(w, inverse).sum(0).view({5, 4}).sum(1);
    for (int64_t unit = 0; unit < 5; ++unit) {
      const auto u = static_cast<size_t>(unit);
      EXPECT_NEAR(single[u], costs[unit].item<double>(), 1e-9 * (1 + single[u]));
      EXPECT_NEAR(joint[u],
                  RemovalCost(w, inverse, {4 * unit, 4 * unit + 1, 4 * unit + 2, 4 * unit + 3}),
                  1e-9 * (1 + joint[u]));
    }
  }
}

TEST(AblationUnit, MeasuresTheObjectiveWhereThereIsOneAndMakesItOncePerBatch) {
  const CalibratedNetwork net(9);
  Calibration calibration = net.calibration();
  int made = 0;
  calibration.loss = [](const std::vector<Tensor>& outputs, const Batch&) {
    ADD_FAILURE() << "the loss is for gradients";
    return outputs.front().mean();
  };
  calibration.objective = [&](const Batch& batch) -> BatchLoss {
    ++made;
    const Tensor wanted = Forward(net.network(), batch.inputs[0]).detach();
    return [wanted](const std::vector<Tensor>& outputs) {
      return (outputs.front() - wanted).square().mean();
    };
  };
  const ParameterStore& store = net.network().store;
  const Statistics found = CollectStatistics(net.space(), store, {Need::kAblation}, calibration);
  EXPECT_EQ(made, 2);  // two batches
  EXPECT_NEAR(found.loss, 0, 1e-9);
  EXPECT_GE(found.ablation.min().item<double>(), -1e-9);
  EXPECT_GT(found.ablation.max().item<double>(), 1e-6);
}

}  // namespace
}  // namespace espalier

#include "criteria/statistics.h"

#include <gtest/gtest.h>

#include <cmath>

#include "criteria/ablation.h"
#include "criteria/criterion.h"
#include "env/base/error.h"
#include "env/graph/builder.h"
#include "env/graph/executor.h"
#include "tests/criteria/hand_net.h"
#include "tests/support/calibrated_network.h"

namespace espalier {
namespace {

// By hand, for x = (1, 1): h = a x = (-1, 3.5); dL/da[u] = b_u x = (2, 2), (-1, -1); dL/db = h.
// w g: unit 0: a (2, -4), b (-2); unit 1: a (-3, -0.5), b (-3.5).

TEST(TaylorUnit, ModesAreTheirFormulas) {
  const HandNet net;
  const auto score = [&](const std::string& options) {
    return net.Score("taylor(" + options + ")", {kOne});
  };
  EXPECT_EQ(score("mode=vector"), (Values{2 + 2, 3.5 + 3.5}));
  EXPECT_EQ(score("mode=element_1"), (Values{6 + 2, 3.5 + 3.5}));
  EXPECT_EQ(score("mode=squared"), (Values{4 + 4, 12.25 + 12.25}));
  // F = g^2 with one sample: sum of (w g)^2
  EXPECT_EQ(score("mode=element_2"), (Values{4 + 16 + 4, 9 + 0.25 + 12.25}));
  // |2 - 2| + |-4 - 8| + |-2 - 2| and |-3 - 4.5| + |-0.5 - 0.125| + |-3.5 - 6.125|
  EXPECT_EQ(score("mode=mixed"), (Values{16, 7.5 + 0.625 + 9.625}));
  EXPECT_EQ(score("members=producer"), (Values{6, 3.5}));
  EXPECT_EQ(score("mode=vector, reduce=max"), (Values{2, 3.5}));
}

TEST(TaylorUnit, SignsOfBatchesAndSamplesCancelOnlyWhenTheyMay) {
  const HandNet net;
  const std::vector<Tensor> apart = {kOne, -kOne}, together = {kBoth};
  for (const std::string mode : {"vector", "element_1", "squared"}) {
    SCOPED_TRACE(mode);
    const auto score = [&](const std::string& how, const std::vector<Tensor>& batches) {
      return net.Score(Str("taylor(mode=", mode, ", accumulate=", how, ")"), batches);
    };
    const Values alone = score("signed", {kOne}), nothing = {0, 0};
    EXPECT_EQ(score("signed", apart), nothing);  // g(-x) = -g(x)
    EXPECT_EQ(score("batch", apart), alone);
    EXPECT_EQ(score("batch", together), nothing);
    EXPECT_EQ(score("sample", together), alone);
    EXPECT_EQ(score("sample", apart), alone);
  }
}

TEST(TaylorUnit, DoesNotChangeWhenTwoLayersAreRescaled) {
  // a[0] times 4, b[0] divided by 4: the same function; w g stays, magnitudes do not.
  const HandNet net, scaled(4);
  for (const std::string criterion : {"taylor", "taylor(mode=vector)", "taylor(mode=element_2)",
                                      "hessian_diagonal", "wood_fisher(damping=0)"})
    EXPECT_EQ(net.Score(criterion, {kBoth}), scaled.Score(criterion, {kBoth})) << criterion;
  EXPECT_NE(net.Score("l1_norm", {kOne}), scaled.Score("l1_norm", {kOne}));
}

TEST(TaylorProperty, VectorIsAtMostElement) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(seed);
    const CalibratedNetwork net(seed);
    const ParameterStore& store = net.network().store;
    const auto vector = net.Score(*MakeCriterion("taylor(mode=vector)"), store);
    const auto element = net.Score(*MakeCriterion("taylor(mode=element_1)"), store);
    for (size_t g = 0; g < vector.size(); ++g)
      for (size_t u = 0; u < vector[g].size(); ++u)
        EXPECT_LE(vector[g][u], element[g][u] * (1 + 1e-6));
  }
  // Equal when all products of a member have one sign: unit 1 of the hand net.
  EXPECT_EQ(HandNet().Score("taylor(mode=vector)", {kOne})[1],
            HandNet().Score("taylor(mode=element_1)", {kOne})[1]);
}

/// L = (w - w0)^T H (w - w0) / 2 with H = diag(1, 4), w0 = (1, .5), w = (1.2, .4): zeroing either
/// weight raises the loss by .48.
TEST(TaylorUnit, OnAQuadraticMixedIsTheExactIncreaseAndFirstOrderHasTheWrongSign) {
  const Tensor w = at::tensor({1.2, 0.4}, at::kDouble), w0 = at::tensor({1.0, 0.5}, at::kDouble);
  const Tensor h = at::tensor({1.0, 4.0}, at::kDouble);
  const auto loss = [&](const Tensor& at_w) {
    return 0.5 * (h * (at_w - w0).square()).sum().item<double>();
  };
  for (int64_t i = 0; i < 2; ++i)
    EXPECT_NEAR(loss(w.index_fill(0, at::tensor({i}), 0)) - loss(w), 0.48, 1e-12);
  const ParameterStatistics found{.gradient = h * (w - w0), .fisher = h};  // (.2, -.4)
  const ProductStatistics products;
  GroupView view{.name = "quadratic", .units = 2, .slices = {}};
  view.slices.push_back(MakeSlice("w", MemberRole::kProducer, w.view({2, 1})));
  const ParameterStatistics shaped{.gradient = found.gradient.view({2, 1}),
                                   .fisher = found.fisher.view({2, 1})};
  view.slices[0].statistics = &shaped;
  view.slices[0].products = &products;
  const auto score = [&](const std::string& text) { return MakeCriterion(text)->Score(view, 0); };
  const auto near = [](const Tensor& actual, double first, double second) {
    EXPECT_NEAR(actual[0].item<double>(), first, 1e-12);
    EXPECT_NEAR(actual[1].item<double>(), second, 1e-12);
  };
  near(-(found.gradient * w), -0.24, 0.16);
  near(score("taylor(mode=vector)"), 0.24, 0.16);
  near(score("taylor(mode=mixed)"), 0.48, 0.48);
}

TEST(HessianDiagonalUnit, IsHalfTheSumOfSquaredProductsWithOneSample) {
  const HandNet net;
  EXPECT_EQ(net.Score("hessian_diagonal", {kOne}), (Values{12, 10.75}));
  EXPECT_EQ(net.Score("hessian_diagonal", {kBoth}), (Values{12, 10.75}));  // squares do not cancel
}

TEST(WoodFisherUnit, HasTheCrossTermsOfEachBlock) {
  const HandNet net;
  // ((2 - 4)^2 + 2^2) / 2 and (3.5^2 + 3.5^2) / 2
  EXPECT_EQ(net.Score("wood_fisher(damping=0)", {kBoth}), (Values{4, 12.25}));
  // + 2 (|w|^2) / 2: 1 + 4 + 4 and 9 + .25 + 1
  EXPECT_EQ(net.Score("wood_fisher(damping=2)", {kBoth}), (Values{4 + 9, 12.25 + 10.25}));
}

TEST(ActivationUnit, IsWhatTheConsumerReads) {
  const HandNet net;
  EXPECT_EQ(net.Score("activation", {kBoth}), (Values{1, 12.25}));
  EXPECT_EQ(net.Score("activation(mode=mean)", {kBoth}), (Values{1, 3.5}));
}

TEST(AblationUnit, IsTheExactIncreaseOfTheLoss) {
  const HandNet net;  // y = -2 - 3.5
  EXPECT_EQ(net.Score("ablation", {kOne}), (Values{2, 3.5}));
  EXPECT_EQ(net.Score("ablation", {-kOne}), (Values{-2, -3.5}));
}

TEST(AblationUnit, NothingMaskedIsTheNetworkAsItIsAndSetsAreMaskedTogether) {
  const CalibratedNetwork calibrated(4);
  const Calibration calibration = calibrated.calibration();
  std::vector<int64_t> all;
  for (int64_t unit = 0; unit < calibrated.space().total_units(); ++unit) all.push_back(unit);
  const std::vector<double> losses = MaskedLosses(calibrated.space(), calibrated.network().store,
                                                  calibration, {{}, {0}, {0, 3}, all});
  double expected = 0;
  const at::NoGradGuard no_grad;
  for (int64_t batch = 0; batch < 2; ++batch) {
    const Batch given = calibration.get(batch);
    const Tensor logits = Forward(calibrated.network(), given.inputs[0]);
    expected += CrossEntropy({logits}, given).item<double>() / 2;
  }
  EXPECT_NEAR(losses[0], expected, 1e-5);
  EXPECT_NE(losses[1], losses[0]);
  EXPECT_NE(losses[2], losses[1]);
  // All features masked: the logits are the classifier's bias.
  double bias_only = 0;
  for (int64_t batch = 0; batch < 2; ++batch) {
    const Batch given = calibration.get(batch);
    const Tensor logits = calibrated.network().store.Get("fc.bias").expand({4, 3});
    bias_only += CrossEntropy({logits}, given).item<double>() / 2;
  }
  EXPECT_NEAR(losses[3], bias_only, 1e-5);
}

TEST(HrankUnit, IsTheRankOfTheMaps) {
  Builder b("maps", 1);
  const ValueId x = b.Conv2d("conv", b.Input("x", {2, 1, 3, 3}), 1, 3, {.kernel = 1});
  const Network network = b.Finish({b.Linear("fc", b.Flatten(x), 27, 2)});
  const Space space = BuildSpace(network);
  ParameterStore store = network.store.Clone();
  store.Set("conv.weight", at::tensor({1.F, 0.F, -2.F}).view({3, 1, 1, 1}));
  // Flattened, a channel is nine features; of the map that is read only zero or not is left.
  Builder c("maps2", 1);
  const ValueId y = c.Conv2d("conv", c.Input("x", {2, 1, 3, 3}), 1, 3, {.kernel = 1});
  const Network conv = c.Finish({c.Conv2d("next", y, 3, 2, {.kernel = 1})});
  const Space conv_space = BuildSpace(conv);
  ParameterStore conv_store = conv.store.Clone();
  conv_store.Set("conv.weight", store.Get("conv.weight"));
  const Tensor full = at::eye(3).view({1, 1, 3, 3}), one = at::ones({1, 1, 3, 3});
  const Calibration calibration =
      CalibrationOf({{.inputs = {at::cat({full, one})}, .targets = {}}});
  const auto score = [&](const Space& space_of, const ParameterStore& weights) {
    const auto criterion = MakeCriterion("hrank");
    const Statistics statistics =
        CollectStatistics(space_of, weights, criterion->needs(), calibration);
    return ScoreGroups(*criterion, space_of, weights, 0, &statistics)[0];
  };
  EXPECT_EQ(score(conv_space, conv_store), (Values{2, 0, 2}));  // ranks 3 and 1
  EXPECT_EQ(score(space, store), (Values{6, 0, 6}));            // (3 + 9) / 2 entries are not zero
}

TEST(StatisticsUnit, OnePassServesAllCriteriaAsTheirOwnWould) {
  const CalibratedNetwork calibrated(5);
  const ParameterStore& store = calibrated.network().store;
  Needs all;
  for (const std::string& name : Registry<Criterion>::Global().Names())
    all.merge(MakeCriterion(name)->needs());
  for (const Need need : {Need::kSampleExpansion, Need::kFisherBlocks}) all.insert(need);
  const Statistics together =
      CollectStatistics(calibrated.space(), store, all, calibrated.calibration());
  EXPECT_EQ(together.batches, 2);
  EXPECT_EQ(together.samples, 8);
  EXPECT_GT(together.loss, 0);
  for (const std::string& name : Registry<Criterion>::Global().Names()) {
    SCOPED_TRACE(name);
    const auto criterion = MakeCriterion(name);
    EXPECT_EQ(ScoreGroups(*criterion, calibrated.space(), store, 7, &together),
              calibrated.Score(*criterion, store));
  }
}

TEST(StatisticsUnit, GradientsAreThoseOfFiniteDifferences) {
  const CalibratedNetwork calibrated(6);
  const Calibration calibration = calibrated.calibration();
  const Statistics found = CollectStatistics(calibrated.space(), calibrated.network().store,
                                             {Need::kGradient}, calibration);
  const std::string name = "conv2.weight";
  const Tensor gradient = found.parameters.at(name).gradient;
  const Tensor direction = gradient / gradient.norm();
  const auto loss_at = [&](double step) {
    ParameterStore moved = calibrated.network().store.Clone();
    moved.Set(name, moved.Get(name) + step * direction);
    return MaskedLosses(calibrated.space(), moved, calibration, {{}})[0];
  };
  const double step = 1e-2;
  // Along its own direction the slope is the gradient's norm; float32 losses allow 1e-5 / step.
  EXPECT_NEAR((loss_at(step) - loss_at(-step)) / (2 * step), gradient.norm().item<double>(), 5e-3);
}

TEST(StatisticsUnit, GramIsOfWhatTheWeightMultiplies) {
  const HandNet net;
  Calibration calibration = CalibrationOf({{.inputs = {kBoth}, .targets = {}}});
  calibration.loss = MeanOutput;
  const Statistics found =
      CollectStatistics(net.space(), net.network().store, {Need::kGram}, calibration);
  // h = (-1, 3.5) and its negative: mean of h h^T
  const Tensor expected = at::tensor({1.0, -3.5, -3.5, 12.25}, at::kDouble).view({2, 2});
  EXPECT_TRUE(at::equal(found.grams.at("b.weight").gram, expected));
  EXPECT_FALSE(found.grams.contains("a.weight")) << "no group loses columns there";
  calibration.max_gram = 1;
  const Statistics bounded =
      CollectStatistics(net.space(), net.network().store, {Need::kGram}, calibration);
  EXPECT_FALSE(bounded.grams.at("b.weight").gram.defined());
  EXPECT_TRUE(at::equal(bounded.grams.at("b.weight").diagonal, expected.diagonal()));
}

TEST(StatisticsUnit, GramsTogetherAreBounded) {
  const CalibratedNetwork net(7);  // conv2 multiplies 54 columns, fc 20
  Calibration calibration = net.calibration();
  calibration.max_gram_bytes = (20 * 20 + 54 * 54) * 8 - 1;
  const auto collect = [&] {
    return CollectStatistics(net.space(), net.network().store, {Need::kForward, Need::kGram},
                             calibration);
  };
  const Statistics narrow = collect();
  EXPECT_TRUE(narrow.grams.at("fc.weight").gram.defined());
  EXPECT_FALSE(narrow.grams.at("conv2.weight").gram.defined());
  for (const char* criterion : {"obs", "modegpt"})  // the diagonal is enough for a score
    ScoreGroups(*MakeCriterion(criterion), net.space(), net.network().store, 0, &narrow);
  ++calibration.max_gram_bytes;
  EXPECT_TRUE(collect().grams.at("conv2.weight").gram.defined());
}

TEST(StatisticsUnit, SaysWhatIsWrongWithTheLossAndStopsWhenAsked) {
  const HandNet net;
  Calibration calibration = CalibrationOf({{.inputs = {kBoth}, .targets = {}}});
  const auto kind = [&] {
    try {
      CollectStatistics(net.space(), net.network().store, {Need::kGradient}, calibration);
    } catch (const Error& error) {
      return error.kind();
    }
    return ErrorKind::kInternal;
  };
  EXPECT_EQ(kind(), ErrorKind::kConfig);  // cross-entropy without labels
  calibration.loss = [](const std::vector<Tensor>& outputs, const Batch&) {
    return outputs.front();
  };
  EXPECT_EQ(kind(), ErrorKind::kModel);  // two numbers
  calibration.loss = [](const std::vector<Tensor>& outputs, const Batch&) {
    return outputs.front().sum() * std::nan("");
  };
  EXPECT_EQ(kind(), ErrorKind::kTrials);
  calibration.loss = MeanOutput;
  calibration.stop = [] { return true; };
  EXPECT_EQ(kind(), ErrorKind::kInterrupted);
}

}  // namespace
}  // namespace espalier

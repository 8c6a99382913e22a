#include "criteria/second_order.h"

#include <gtest/gtest.h>

#include <cmath>

#include "criteria/compensation.h"
#include "criteria/criterion.h"
#include "criteria/modular.h"
#include "env/graph/builder.h"
#include "env/graph/executor.h"
#include "tests/support/calibrated_network.h"

namespace espalier {
namespace {

Tensor Doubles(const std::vector<double>& values, at::IntArrayRef sizes) {
  return at::tensor(values, at::kDouble).reshape(sizes);
}

void ExpectClose(const Tensor& actual, const Tensor& expected, double tolerance = 1e-9) {
  EXPECT_TRUE(at::allclose(actual.to(at::kDouble), expected, tolerance, tolerance))
      << actual << "\nexpected\n"
      << expected;
}

Tensor RandomDouble(uint64_t seed, at::IntArrayRef sizes) {
  Rng rng(seed, 0, "second order");
  Tensor values = at::empty(sizes, at::kDouble);
  auto* data = values.mutable_data_ptr<double>();
  for (int64_t i = 0; i < values.numel(); ++i) data[i] = rng.Normal();
  return values;
}
/// Symmetric, positive definite.
Tensor RandomHessian(uint64_t seed, int64_t size) {
  const Tensor x = RandomDouble(seed, {size, 2 * size});
  return at::matmul(x, x.t()) / static_cast<double>(2 * size);
}

const Tensor kH = Doubles({2, 1, 0, 1, 2, 1, 0, 1, 2}, {3, 3});
const Tensor kW = Doubles({1, -0.5, 0.8}, {3});

double Loss(const Tensor& w, const Tensor& after, const Tensor& h) {
  const Tensor moved = (after - w).reshape({-1, w.size(-1)});
  return 0.5 * (at::matmul(moved, h) * moved).sum().item<double>();
}

TEST(SecondOrderUnit, InverseAndFactorByHand) {
  const Tensor inverse = Doubles({3, -2, 1, -2, 4, -2, 1, -2, 3}, {3, 3}) / 4;
  ExpectClose(InverseOf(kH), inverse);
  ExpectClose(UpperFactor(kH),
              Doubles({.866025, -.57735, .288675, 0, .816497, -.408248, 0, 0, .707107}, {3, 3}),
              1e-6);
  EXPECT_THROW(InverseOf(-kH), Error);
}

TEST(SecondOrderUnit, SparseGptMovesErrorsToTheRightOnly) {
  const Tensor upper = UpperFactor(kH), row = kW.view({1, 3});
  ExpectClose(row.square() / upper.diagonal().square(), Doubles({1.0 / .75, .375, 1.28}, {1, 3}));
  const Tensor mask = at::tensor({0, 1, 0}).to(at::kBool).view({1, 3});
  const SparseGptResult pruned = SparseGpt(row, upper, mask, 0);
  ExpectClose(pruned.weight, Doubles({1, 0, .55}, {1, 3}));
  EXPECT_NEAR(pruned.loss, .1875, 1e-12);
  EXPECT_NEAR(Loss(row, pruned.weight, kH), .1875, 1e-12);  // the estimate is exact here
  const Tensor surgeon = RemoveWeights(kW, InverseOf(kH), {1});
  ExpectClose(surgeon, Doubles({.75, 0, .55}, {3}));
  EXPECT_NEAR(Loss(kW, surgeon, kH), .125, 1e-12);
}

TEST(SecondOrderUnit, RemovingSeveralWeightsByHand) {
  const Tensor inverse = InverseOf(kH);
  ExpectClose(RemovalCosts(kW, inverse), Doubles({2.0 / 3, .125, .64 / 1.5}, {3}));
  EXPECT_NEAR(RemovalCost(kW, inverse, {0, 2}), .83, 1e-12);
  const Tensor joint = RemoveWeights(kW, inverse, {0, 2});
  ExpectClose(joint, Doubles({0, .4, 0}, {3}));
  EXPECT_NEAR(Loss(kW, joint, kH), .83, 1e-12);
  const Tensor single = RemoveWeights(kW, inverse, {0, 2}, /*joint=*/false);
  ExpectClose(single, Doubles({0, .7, 0}, {3}));
  EXPECT_NEAR(Loss(kW, single, kH), .92, 1e-12);
  EXPECT_NEAR(Loss(kW, Doubles({0, -.5, 0}, {3}), kH), 1.64, 1e-12);
}

TEST(SecondOrderProperty, JointRemovalIsTheBestThereIs) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(seed);
    const Tensor h = RandomHessian(seed, 6), inverse = InverseOf(h);
    const Tensor w = RandomDouble(seed + 100, {2, 6});
    const std::vector<int64_t> removed = {1, 4, 5};
    const Tensor joint = RemoveWeights(w, inverse, removed);
    const double cost = Loss(w, joint, h);
    EXPECT_NEAR(RemovalCost(w, inverse, removed), cost, 1e-9 * cost);
    const Tensor index = at::tensor(removed, at::kLong);
    EXPECT_LE(cost, Loss(w, RemoveWeights(w, inverse, removed, false), h) * (1 + 1e-12));
    EXPECT_LE(cost, Loss(w, w.index_fill(1, index, 0), h) * (1 + 1e-12));
    EXPECT_TRUE(joint.index_select(1, index).eq(0).all().item<bool>());
  }
}

TEST(SecondOrderUnit, NothingRemovedChangesNothingBitForBit) {
  const Tensor h = RandomHessian(1, 5), w = RandomDouble(2, {3, 5});
  EXPECT_TRUE(at::equal(RemoveWeights(w, InverseOf(h), {}), w));
  EXPECT_TRUE(at::equal(SparseGpt(w, UpperFactor(h), at::zeros({3, 5}, at::kBool), 0).weight, w));
  EXPECT_TRUE(at::equal(SparseGpt(w, UpperFactor(h), {}, 0.0).weight, w));
}

TEST(SecondOrderProperty, SparseGptDoesNotDependOnTheBlockSizeForAFixedMask) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(seed);
    const Tensor upper = UpperFactor(RandomHessian(seed, 40)), w = RandomDouble(seed + 50, {8, 40});
    const Tensor mask = RandomDouble(seed + 70, {8, 40}).gt(0);
    const Tensor whole = SparseGpt(w, upper, mask, 0, 40).weight;
    ExpectClose(SparseGpt(w, upper, mask, 0, 1).weight, whole, 1e-9);
    ExpectClose(SparseGpt(w, upper, mask, 0, 32).weight, whole, 1e-9);
    EXPECT_TRUE(whole.masked_select(mask).eq(0).all().item<bool>());
  }
}

TEST(SecondOrderProperty, SparseGptBeatsMagnitudeAtHalf) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(seed);
    const Tensor h = RandomHessian(seed, 64), w = RandomDouble(seed + 50, {16, 64});
    const SparseGptResult pruned = SparseGpt(w, UpperFactor(Damp(h, 0.01)), {}, 0.5);
    EXPECT_EQ(pruned.mask.sum().item<int64_t>(), 16 * 64 / 2);
    const Tensor smallest = w.abs().flatten().argsort().narrow(0, 0, 16 * 64 / 2);
    const Tensor magnitude = w.flatten().index_fill(0, smallest, 0).view({16, 64});
    EXPECT_LT(Loss(w, pruned.weight, h), Loss(w, magnitude, h));
  }
}

TEST(SecondOrderUnit, DampingRevivesDeadInputs) {
  const Tensor h = Doubles({4, 0, 0, 0}, {2, 2});
  // H_11 = 0 becomes 1; the mean of (4, 1) is 2.5
  ExpectClose(Damp(h, 0.1), Doubles({4.25, 0, 0, 1.25}, {2, 2}));
}

TEST(BlockFisherProperty, RankOneUpdatesGiveTheInverse) {
  for (const auto& [samples, damping] : {std::pair(200, 1e-5), std::pair(1024, 1e-7)}) {
    const Tensor g = RandomDouble(static_cast<uint64_t>(samples), {samples, 50});
    const Tensor p = BlockFisherInverse(g, damping);
    const Tensor direct = InverseOf(damping * at::eye(50, at::kDouble) +
                                    at::matmul(g.t(), g) / static_cast<double>(samples));
    EXPECT_LE(((p - direct).abs().max() / direct.abs().max()).item<double>(), 1e-4);
    EXPECT_TRUE(p.diagonal().gt(0).all().item<bool>());
  }
}

TEST(BlockFisherUnit, BlocksOfOneAreTheDiagonalAndLargeDampingIsMagnitude) {
  const Tensor g = Doubles({1, 3}, {2, 1});  // F = damping + (1 + 9) / 2
  ExpectClose(BlockFisherInverse(g, 0.5), Doubles({1 / 5.5}, {1, 1}));
  const Tensor many = RandomDouble(3, {32, 6}), w = RandomDouble(4, {6});
  const Tensor costs = RemovalCosts(w, BlockFisherInverse(many, 1e6));
  EXPECT_TRUE(at::equal(costs.argsort(), w.abs().argsort()));
  // A whole block: rho is w^T F w / 2, what the criterion wood_fisher uses.
  const Tensor f = 0.01 * at::eye(6, at::kDouble) + at::matmul(many.t(), many) / 32;
  EXPECT_NEAR(RemovalCost(w, BlockFisherInverse(many, 0.01), {0, 1, 2, 3, 4, 5}),
              0.5 * at::dot(w, at::mv(f, w)).item<double>(), 1e-9);
}

TEST(ModularUnit, NystromIsLeastSquares) {
  const Tensor z = RandomDouble(1, {100, 6}), w = RandomDouble(2, {3, 6});
  const Tensor gram = at::matmul(z.t(), z);
  const std::vector<int64_t> kept = {0, 2, 5};
  const Tensor s = at::tensor(kept, at::kLong);
  const Tensor fitted = NystromColumns(w, gram, kept);
  const Tensor target = at::matmul(z, w.t());
  const Tensor best = std::get<0>(at::linalg_lstsq(z.index_select(1, s), target));
  ExpectClose(fitted, best.t(), 1e-9);
  const double left =
      (target - at::matmul(z.index_select(1, s), fitted.t())).square().sum().item<double>();
  EXPECT_NEAR(NystromResidual(w, gram, kept), left, 1e-9 * left);
  EXPECT_TRUE(at::equal(NystromColumns(w, gram, {0, 1, 2, 3, 4, 5}), w));
}

TEST(ModularProperty, KeepingOneMoreNeverHurts) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(seed);
    const Tensor gram = RandomHessian(seed, 8), w = RandomDouble(seed + 30, {4, 8});
    const std::vector<int64_t> order = Rng(seed, 0, "order").Permutation(8);
    double before = (at::matmul(w, gram) * w).sum().item<double>();
    for (size_t count = 1; count <= order.size(); ++count) {
      const double now = NystromResidual(w, gram, {order.begin(), order.begin() + count});
      EXPECT_LE(now, before + 1e-9);
      before = now;
    }
    EXPECT_NEAR(before, 0, 1e-9);
  }
}

TEST(ModularUnit, LeveragesAreBelowOneAndSpread) {
  // Independent units of energy 1, .1, .01: c / (c + lambda), lambda = .01 * .37
  const Tensor gram = at::diag(Doubles({1, .1, .01}, {3}));
  const double lambda = .01 * 1.11 / 3;
  const Tensor leverage = RidgeLeverage(gram, .01);
  ExpectClose(leverage, Doubles({1 / (1 + lambda), .1 / (.1 + lambda), .01 / (.01 + lambda)}, {3}));
  EXPECT_GT((leverage.max() - leverage.min()).item<double>(), .05);
  // Without a ridge every leverage is 1 and ranks nothing.
  EXPECT_NEAR(RidgeLeverage(gram, 1e-12).min().item<double>(), 1, 1e-9);
  ExpectClose(RidgeLeverage(at::zeros({2, 2}), .01), at::zeros({2}, at::kDouble));
}

TEST(ModularProperty, CrScoresBoundTheError) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(seed);
    const Tensor q = RandomDouble(seed, {30, 8}), k = RandomDouble(seed + 40, {25, 8});
    const Tensor scores = CrScores(q.square().sum(0), k.square().sum(0));
    const Tensor order = scores.argsort(0, /*descending=*/true), kept = order.narrow(0, 0, 5);
    const Tensor error =
        at::matmul(q, k.t()) - at::matmul(q.index_select(1, kept), k.index_select(1, kept).t());
    const Tensor gone = scores.index_select(0, order.narrow(0, 5, 3));
    EXPECT_LE(error.norm().item<double>(), gone.sum().item<double>() * (1 + 1e-12));
  }
}

TEST(ModularProperty, SingularValuesGiveTheExactAndLeastError) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(seed);
    const Tensor gram = RandomHessian(seed, 7);
    const Tensor a = RandomDouble(seed + 20, {7, 5}), b = RandomDouble(seed + 60, {5, 6});
    const auto [first, second] = SvdFactors(gram, a, b, 3);
    const auto error = [&](const Tensor& left, const Tensor& right) {
      const Tensor rest = at::matmul(a, b) - at::matmul(left, right);  // tr(R^T C R)
      return (rest * at::matmul(gram, rest)).sum().item<double>();
    };
    const double tail = SvdTail(gram, a, b).slice(0, 3).sum().item<double>();
    EXPECT_NEAR(error(first, second), tail, 1e-9 * tail);
    for (uint64_t other = 0; other < 5; ++other)  // 100 perturbations in all
      EXPECT_GE(error(first + 1e-2 * RandomDouble(1000 * seed + other, {7, 3}),
                      second + 1e-2 * RandomDouble(2000 * seed + other, {3, 6})),
                tail * (1 - 1e-12));
  }
}

TEST(ModularProperty, OneBasisHoldsTheFactorsOfEveryRank) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(seed);
    const Tensor gram = RandomHessian(seed, 7);
    // As many outputs as dims, fewer, and a dim that repeats another.
    Tensor a = RandomDouble(seed + 20, {7, 5});
    const Tensor b = RandomDouble(seed + 60, {5, seed % 2 == 0 ? 6 : 3});
    if (seed % 3 == 0) a.select(1, 4).copy_(a.select(1, 1));
    const BasisChange basis = SingularBasis(at::linalg_cholesky(gram).t(), a, b);
    const Tensor left = at::matmul(a, basis.to), right = at::matmul(basis.back, b);
    ExpectClose(at::matmul(left, right), at::matmul(a, b));
    ExpectClose(left.norm(2, 0), right.norm(2, 1), 1e-6);
    const Tensor tail = SvdTail(gram, a, b);
    ExpectClose(basis.singular.square(), tail.narrow(0, 0, basis.singular.size(0)));
    for (int64_t rank = 1; rank <= 5; ++rank) {
      const Tensor rest =
          at::matmul(a, b) - at::matmul(left.narrow(1, 0, rank), right.narrow(0, 0, rank));
      const double error = (rest * at::matmul(gram, rest)).sum().item<double>();
      EXPECT_NEAR(error, tail.slice(0, rank).sum().item<double>(),
                  1e-9 * tail.sum().item<double>());
    }
  }
}

class CompensationTest : public testing::Test {
 protected:
  static double OutputError(const CalibratedNetwork& net, const ParameterStore& store,
                            const Selection& selection) {
    const at::NoGradGuard no_grad;
    Network changed = net.network();
    changed.store = store;
    const Network cut = Cut(changed, MakePlan(net.space(), selection));
    double error = 0;
    for (int64_t batch = 0; batch < 2; ++batch) {
      const Tensor input = net.calibration().get(batch).inputs[0];
      error += (Forward(net.network(), input) - Forward(cut, input)).square().sum().item<double>();
    }
    return error;
  }
};

using CompensationProperty = CompensationTest;

TEST_F(CompensationProperty, BringsTheOutputsOfACutNearerAndDoesNothingWithoutOne) {
  int compared = 0;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(seed);
    const CalibratedNetwork net(seed);
    const ParameterStore& store = net.network().store;
    const Statistics statistics =
        CollectStatistics(net.space(), store, {Need::kGram}, net.calibration());
    const Compensation none =
        CompensateConsumers(net.space(), store, KeepAll(net.space()), statistics);
    EXPECT_TRUE(none.layers.empty());
    for (const std::string& name : store.names())
      EXPECT_TRUE(none.store.Get(name).is_same(store.Get(name))) << name;
    // One group only: the classifier's inputs are then those the regression saw.
    Selection selection = KeepAll(net.space());
    selection[1] = {0, 2, 3};
    const Compensation done = CompensateConsumers(net.space(), store, selection, statistics, 1e-6);
    EXPECT_EQ(done.layers, (std::vector<std::string>{"fc.weight"}));
    EXPECT_TRUE(done.skipped.empty());
    const double plain = OutputError(net, store, selection);
    if (plain > 1e-9) {  // else the rectifier lets nothing of the removed units through
      EXPECT_LT(OutputError(net, done.store, selection), plain);
      ++compared;
    }
    // Rows of other layers, and the columns that go, keep their values.
    EXPECT_TRUE(at::equal(done.store.Get("fc.weight").narrow(1, 4, 4),
                          store.Get("fc.weight").narrow(1, 4, 4)));
  }
  EXPECT_GE(compared, 10);
}

TEST(ObsUnit, IsTheCostOfRemovingAConsumersColumns) {
  const CalibratedNetwork net(8);
  const ParameterStore& store = net.network().store;
  const Statistics statistics =
      CollectStatistics(net.space(), store, {Need::kForward, Need::kGram}, net.calibration());
  const auto scores =
      ScoreGroups(*MakeCriterion("obs(damping=0.01)"), net.space(), store, 0, &statistics);
  // conv1's channel 2 is read by conv2's columns 18..26.
  const Tensor h = Damp(2 * statistics.grams.at("conv2.weight").gram, 0.01);
  const Tensor w = store.Get("conv2.weight").to(at::kDouble).reshape({5, -1});
  std::vector<int64_t> columns(9);
  std::iota(columns.begin(), columns.end(), 18);
  const Tensor after = RemoveWeights(w, InverseOf(h), columns);
  EXPECT_NEAR(scores[0][2], Loss(w, after, h), 1e-9 * scores[0][2]);
}

TEST(ObsUnit, NothingMakesUpForABranchThatIsAddedToItsTrunk) {
  Builder b("residual", 1);
  ValueId x = b.Relu(b.Conv2d("stem", b.Input("x", {2, 3, 5, 5}), 3, 4, {.padding = 1}));
  x = b.Add(x, b.BatchNorm2d("bn", b.Conv2d("branch", x, 4, 4, {.padding = 1}), 4));
  const Network network = b.Finish({b.Linear("fc", b.Flatten(b.GlobalAvgPool(x)), 4, 2)});
  const Space space = BuildSpace(network, {.decouple_residuals = true});
  Rng rng(1);
  const Calibration calibration =
      CalibrationOf({{.inputs = {RandomTensor(rng, {6, 3, 5, 5})}, .targets = {}}});
  const auto score = [&](const std::string& text) {
    const auto criterion = MakeCriterion(text);
    const Statistics statistics =
        CollectStatistics(space, space.network().store, criterion->needs(), calibration);
    return ScoreGroups(*criterion, space, space.network().store, 0,
                       &statistics)[static_cast<size_t>(space.FindGroup("branch"))];
  };
  const std::vector<double> energies = score("activation"), leverages = score("modegpt");
  EXPECT_EQ(score("obs"), energies);
  const double mean = (energies[0] + energies[1] + energies[2] + energies[3]) / 4;
  for (size_t unit = 0; unit < 4; ++unit)
    EXPECT_NEAR(leverages[unit], energies[unit] / (energies[unit] + 0.01 * mean), 1e-12);
}

}  // namespace
}  // namespace espalier

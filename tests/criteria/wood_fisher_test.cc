#include "criteria/wood_fisher.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "criteria/second_order.h"
#include "env/base/error.h"
#include "tests/criteria/hand_net.h"
#include "tests/support/calibrated_network.h"

namespace espalier {
namespace {

TEST(WoodFisherUnit, LargerUnitsAreSplitAndSummed) {
  const HandNet net;
  // w g of unit 0: a (2, -4), b (-2), of unit 1: a (-3, -.5), b (-3.5). In one block a and b have
  // ((2 - 4)^2 + 2^2) / 2 and (3.5^2 + 3.5^2) / 2; alone (4 + 16 + 4) / 2, (9 + .25 + 12.25) / 2.
  EXPECT_EQ(net.Score("wood_fisher(damping=0, block=2)", {kBoth}), (Values{4, 12.25}));
  EXPECT_EQ(net.Score("wood_fisher(damping=0)", {kBoth}), (Values{4, 12.25}));
  EXPECT_EQ(net.Score("wood_fisher(damping=0, block=1)", {kBoth}), (Values{12, 10.75}));
  // Blocks of one weight are a diagonal: optimal brain damage, with and without its inverse.
  EXPECT_EQ(net.Score("hessian_diagonal", {kBoth}), (Values{12, 10.75}));
  const Values single = net.Score("wood_fisher(damping=0, block=1, joint=false)", {kBoth});
  EXPECT_NEAR(single[0], 12, 1e-12);
  EXPECT_NEAR(single[1], 10.75, 1e-12);
}

TEST(WoodFisherProperty, WithMuchDampingItRanksByMagnitude) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(seed);
    const CalibratedNetwork net(seed);
    const ParameterStore& store = net.network().store;
    const auto scores = net.Score(*MakeCriterion("wood_fisher(damping=1e9)"), store);
    const auto squares = net.Score(*MakeCriterion("l2_norm"), store);
    for (size_t g = 0; g < scores.size(); ++g)
      for (size_t u = 0; u < scores[g].size(); ++u)
        EXPECT_NEAR(scores[g][u] / (5e8 * squares[g][u]), 1, 1e-5);
  }
}

TEST(WoodFisherUnit, BlocksAreCutFromTheFrontWithZerosBehind) {
  const Tensor rows = at::arange(10, at::kDouble).view({2, 5});
  const Tensor blocks = InBlocks(rows, 2);
  EXPECT_TRUE(at::equal(blocks[0], at::tensor({0.0, 1.0, 2.0, 3.0, 4.0, 0.0}).view({3, 2})));
  EXPECT_EQ(InBlocks(rows, 128).sizes(), (std::vector<int64_t>{2, 1, 5}));
  EXPECT_EQ(InBlocks(rows, 5).sizes(), (std::vector<int64_t>{2, 1, 5}));
}

/// Scores by the definition: rank-one updates of each block's inverse from the gradients of every
/// sample, then rho of the whole block, or of each weight alone.
class Reference {
 public:
  explicit Reference(const CalibratedNetwork& net)
      : views_(ViewGroups(net.space(), net.network().store)) {
    for (int64_t batch = 0; batch < 2; ++batch)
      for (int64_t s = 0; s < 4; ++s)
        samples_.push_back(
            CollectStatistics(net.space(), net.network().store, {Need::kSampleGradient},
                              CalibrationOf({net.calibration().get(batch).Part(s, 1)})));
  }

  std::vector<Values> Score(double damping, int64_t block, bool joint) const {
    std::vector<Values> scores;
    for (const GroupView& view : views_) {
      scores.emplace_back(view.units, 0.0);
      for (const GroupView::Slice& slice : view.slices) {
        if (slice.is_bias) continue;
        const Tensor g = Gradients(slice), w = slice.Rows();
        for (int64_t unit = 0; unit < view.units; ++unit)
          for (int64_t first = 0; first < w.size(1); first += block) {
            const int64_t count = std::min(block, w.size(1) - first);
            scores.back()[static_cast<size_t>(unit)] +=
                Cost(w[unit].narrow(0, first, count), g.select(1, unit).narrow(1, first, count),
                     damping, joint);
          }
      }
    }
    return scores;
  }

 private:
  /// [samples, units, elements]
  Tensor Gradients(const GroupView::Slice& slice) const {
    std::vector<Tensor> gradients;
    for (const Statistics& sample : samples_)
      gradients.push_back(slice.layout.Gather(sample.parameters.at(slice.parameter).gradient));
    return at::stack(gradients);
  }
  static double Cost(const Tensor& w, const Tensor& gradients, double damping, bool joint) {
    const Tensor inverse = BlockFisherInverse(gradients, damping);
    if (!joint) return RemovalCosts(w, inverse).sum().item<double>();
    std::vector<int64_t> all(static_cast<size_t>(w.size(0)));
    std::iota(all.begin(), all.end(), 0);
    return RemovalCost(w, inverse, all);
  }
  const std::vector<GroupView> views_;
  std::vector<Statistics> samples_;
};

TEST(WoodFisherProperty, IsRhoOfTheBlockInverseForAnyBlockSize) {
  constexpr double kDamping = 1e-2;
  for (uint64_t seed = 0; seed < 21; ++seed) {
    const int64_t block = seed % 3 == 0 ? 1 : seed % 3 == 1 ? 7 : 128;
    const CalibratedNetwork net(seed);
    const ParameterStore& store = net.network().store;
    const Reference reference(net);
    for (const bool joint : {true, false}) {
      SCOPED_TRACE(Str("seed ", seed, " block ", block, " joint ", joint));
      const WoodFisher criterion({.damping = kDamping, .block = block, .joint = joint});
      Calibration calibration = net.calibration();
      criterion.Adjust(calibration);
      const Statistics statistics =
          CollectStatistics(net.space(), store, criterion.needs(), calibration);
      const auto scores = ScoreGroups(criterion, net.space(), store, 0, &statistics);
      const auto expected = reference.Score(kDamping, block, joint);
      // float32 gradients, 6e-8 each, through the inverse of a matrix whose smallest eigenvalue is
      // the damping and whose largest is below 1e2 here.
      for (size_t g = 0; g < scores.size(); ++g)
        for (size_t u = 0; u < scores[g].size(); ++u)
          EXPECT_NEAR(scores[g][u], expected[g][u], 1e-3 * expected[g][u] + 1e-9);
    }
  }
}

TEST(WoodFisherUnit, SaysWhatItCannotDoWithTheStatistics) {
  const CalibratedNetwork net(1);
  const auto kind = [&](const WoodFisherConfig& config, Calibration calibration) {
    const WoodFisher criterion(config);
    try {
      const ParameterStore& store = net.network().store;
      const Statistics statistics =
          CollectStatistics(net.space(), store, criterion.needs(), calibration);
      ScoreGroups(criterion, net.space(), store, 0, &statistics);
    } catch (const Error& error) {
      return Str(ErrorKindName(error.kind()), ": ", error.message());
    }
    return std::string("scored");
  };
  EXPECT_NE(kind({.block = 16}, net.calibration()).find("blocks of 128"), std::string::npos);
  EXPECT_EQ(kind({}, net.calibration()), "scored");
  Calibration little = net.calibration();
  little.max_fisher_bytes = 1 << 10;
  EXPECT_NE(kind({.joint = false}, little).find("MiB"), std::string::npos);
  EXPECT_EQ(kind({.joint = true}, little), "scored");
}

TEST(WoodFisherTunerUnit, ChoosesTheDampingThatMasksTheRightUnit) {
  // The hand net, its first layer's unit 0 times 4 and the loss a thousandth: without damping the
  // costs are 4e-6 and 12.25e-6, lambda adds |w|^2 / 2 = 40.125 and 5.125 times itself. Unit 0
  // scores lowest while 35 lambda < 8.25e-6, at 1e-7 and below; without it the loss is -3.5e-3,
  // without unit 1 -2e-3 ... and so 1e-7, the largest that finds it, is best.
  const HandNet net(4);
  Calibration calibration = CalibrationOf({{.inputs = {-kOne}, .targets = {}}});
  calibration.loss = [](const std::vector<Tensor>& outputs, const Batch&) {
    return -1e-3 * outputs.front().mean();
  };
  const ParameterStore& store = net.network().store;
  const auto trials = TuneWoodFisher(net.space(), store, calibration, {});
  ASSERT_EQ(trials.size(), 5U);  // one sample: no grid of m
  std::vector<double> dampings;
  for (const WoodFisherTrial& trial : trials) {
    dampings.push_back(trial.damping);
    EXPECT_EQ(trial.samples, 1);
    EXPECT_NEAR(trial.loss, trial.damping < 5e-7 ? -3.5e-3 : -2e-3, 1e-9);
  }
  EXPECT_EQ(dampings, (std::vector<double>{1e-7, 1e-8, 1e-4, 1e-5, 1e-6}));
  std::map<std::string, double> reported;
  const auto tuned =
      MakeCriterion("wood_fisher(tune=true)")
          ->Tuned(net.space(), store, calibration, [&](std::string_view name, double value) {
            reported[std::string(name)] = value;
          });
  ASSERT_NE(tuned, nullptr);
  EXPECT_EQ(reported, (std::map<std::string, double>{{"damping", 1e-7}, {"samples", 1}}));
  EXPECT_EQ(MakeCriterion("wood_fisher")->Tuned(net.space(), store, calibration, {}), nullptr);
}

TEST(WoodFisherTunerUnit, TriesAsManySamplesAsThereAre) {
  const HandNet net;
  Rng rng(1);
  std::vector<Batch> batches;
  for (int b = 0; b < 3; ++b)
    batches.push_back({.inputs = {RandomTensor(rng, {200, 2})}, .targets = {}});
  Calibration calibration = CalibrationOf(std::move(batches));
  calibration.loss = MeanOutput;
  const auto counts = [&] {
    std::set<int64_t> found;
    for (const auto& trial : TuneWoodFisher(net.space(), net.network().store, calibration, {}))
      found.insert(trial.samples);
    return found;
  };
  EXPECT_EQ(counts(), (std::set<int64_t>{256}));  // max_samples
  calibration.max_samples = 2048;
  EXPECT_EQ(counts(), (std::set<int64_t>{256, 512}));  // there are 600
}

}  // namespace
}  // namespace espalier

#include "env/eval/candidate_evaluator.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <limits>
#include <set>

#include "env/base/error.h"
#include "env/eval/evaluator.h"
#include "env/eval/task_samples.h"
#include "env/models/models.h"
#include "env/space/space.h"
#include "tests/env/space/random_selection.h"
#include "tests/support/tiny_data.h"

namespace espalier {
namespace {

using testing_support::TinySplits;

Space SpaceOf(const std::string& model, bool decouple, uint64_t seed = 3, bool depth = false) {
  at::set_num_threads(1);
  ModelOptions options;
  options.input_size = 32;
  options.seed = seed;
  return BuildSpace(BuildModel(model, options), {.decouple_residuals = decouple, .depth = depth});
}

struct NetworkCase {
  const char* model;
  bool decouple;
  bool depth = false;
};

class CandidateNetworkProperty : public testing::TestWithParam<NetworkCase> {};

TEST_P(CandidateNetworkProperty, OneGraphRunsEveryCutAsTheCutNetworkDoes) {
  const Space space = SpaceOf(GetParam().model, GetParam().decouple, 3, GetParam().depth);
  const CandidateNetwork candidates(space);
  const at::NoGradGuard no_grad;
  at::manual_seed(5);
  const Tensor input = at::randn({3, 3, 32, 32});
  for (uint64_t seed = 1; seed <= 4; ++seed) {
    SCOPED_TRACE(seed);
    const Selection selection = seed == 4 ? KeepAll(space) : RandomSelection(space, seed);
    const Tensor expected =
        Forward(Cut(space.network(), MakePlan(space, selection)), input).to(at::kDouble);
    const auto bound = candidates.Bind(selection);
    const Tensor found =
        candidates.executor().Run(bound.binding, {PrepareInput(input, at::kFloat)}).front();
    EXPECT_LE((found - expected).abs().max().item<double>(),
              1e-5 * expected.abs().max().item<double>());
  }
}

INSTANTIATE_TEST_SUITE_P(
    Models, CandidateNetworkProperty,
    testing::Values(NetworkCase{"resnet20", false}, NetworkCase{"resnet20", true},
                    NetworkCase{"resnet20", false, true}, NetworkCase{"resnet20", true, true},
                    NetworkCase{"densenet40", false}, NetworkCase{"googlenet_cifar", false},
                    NetworkCase{"vgg16_bn_cifar", false}, NetworkCase{"mobilenet_v2", false}),
    [](const auto& info) {
      return std::string(info.param.model) + (info.param.decouple ? "_decoupled" : "") +
             (info.param.depth ? "_depth" : "");
    });

/// Candidates with long common fronts: they differ in one group, from the back to the front.
std::vector<Selection> Neighbours(const Space& space) {
  std::vector<Selection> selections = {RandomHalf(space, 1)};
  const Selection other = RandomHalf(space, 2);
  for (size_t g = space.groups().size(); g-- > 0;) {
    selections.push_back(selections.front());
    selections.back()[g] = other[g];
  }
  return selections;
}

class Fixture {
 public:
  explicit Fixture(const std::string& model = "resnet20", bool decouple = false)
      : space(SpaceOf(model, decouple)),
        splits(TinySplits(20, 90, 10, 32)),
        set(splits.validation(), {}, space.network()) {}
  const Space space;
  const Splits splits;
  const TaskSamples set;
};

TEST(CandidateEvaluatorProperty, AgreesWithEvaluatingEveryCutNetwork) {
  const Fixture fixture;
  std::vector<Selection> candidates;
  for (uint64_t seed = 1; seed <= 5; ++seed)
    candidates.push_back(RandomSelection(fixture.space, seed));
  CandidateEvaluator evaluator(fixture.space, fixture.set,
                               {.batch_size = 32, .workers = 2, .race = {.on = false}});
  const auto scores = evaluator.Evaluate(candidates);
  for (size_t c = 0; c < candidates.size(); ++c) {
    const Score expected =
        Evaluate(Cut(fixture.space.network(), MakePlan(fixture.space, candidates[c])),
                 fixture.splits.validation(), {}, {.fast = false});
    EXPECT_FALSE(scores[c].failed) << scores[c].cause;
    EXPECT_EQ(scores[c].samples, 90);
    EXPECT_DOUBLE_EQ(scores[c].value, expected.value);
    EXPECT_NEAR(scores[c].standard_error, expected.standard_error, 1e-12);
  }
}

TEST(CandidateEvaluatorProperty, SharedPrefixesChangeNoBitAndSaveWork) {
  for (const bool decouple : {false, true}) {
    const Fixture fixture("resnet20", decouple);
    const std::vector<Selection> candidates = Neighbours(fixture.space);
    // What every sample gets must not change: compare logits through a set that records them.
    struct Recorder final : ComparisonSet {
      explicit Recorder(const ComparisonSet& base) : inner(base) {}
      int64_t samples() const override { return inner.samples(); }
      std::vector<Tensor> Inputs(int64_t first, int64_t count) const override {
        return inner.Inputs(first, count);
      }
      Tensor PerSample(const std::vector<Tensor>& outputs, int64_t, int64_t) const override {
        return outputs.front().to(at::kFloat).abs().sum(1).contiguous();
      }
      const ComparisonSet& inner;
    };
    const Recorder recorder(fixture.set);
    const CandidateOptions plain{
        .batch_size = 45, .workers = 1, .share_prefixes = false, .race = {.on = false}};
    CandidateOptions sharing = plain;
    sharing.share_prefixes = true;
    CandidateEvaluator one(fixture.space, recorder, plain), other(fixture.space, recorder, sharing);
    const auto expected = one.Evaluate(candidates), found = other.Evaluate(candidates);
    for (size_t c = 0; c < candidates.size(); ++c) EXPECT_EQ(found[c].value, expected[c].value);
    EXPECT_EQ(one.counters().shared, 0);
    EXPECT_GT(other.counters().shared, 0.3);
  }
}

TEST(CandidateEvaluatorProperty, NumberOfWorkersChangesNothing) {
  const Fixture fixture;
  const std::vector<Selection> candidates = Neighbours(fixture.space);
  std::vector<std::vector<double>> values;
  for (const int64_t workers : {1, 2, 5}) {
    CandidateEvaluator evaluator(fixture.space, fixture.set,
                                 {.batch_size = 16, .workers = workers, .race = {.first = 32}});
    values.emplace_back();
    for (const CandidateScore& score : evaluator.Evaluate(candidates))
      values.back().push_back(score.value);
  }
  EXPECT_EQ(values[0], values[1]);
  EXPECT_EQ(values[0], values[2]);
}

TEST(CandidateEvaluatorProperty, MasksGiveWhatCutsGive) {
  const Fixture fixture("resnet20", true);
  const std::vector<Selection> candidates = Neighbours(fixture.space);
  CandidateEvaluator sliced(fixture.space, fixture.set, {.batch_size = 40, .race = {.on = false}});
  CandidateEvaluator masked(fixture.space, fixture.set,
                            {.batch_size = 40, .masked = true, .race = {.on = false}});
  const auto expected = sliced.Evaluate(candidates), found = masked.Evaluate(candidates);
  for (size_t c = 0; c < candidates.size(); ++c) {
    EXPECT_FALSE(found[c].failed) << found[c].cause;
    EXPECT_EQ(found[c].samples, 90);
    EXPECT_DOUBLE_EQ(found[c].value, expected[c].value);
  }
}

TEST(CandidateEvaluatorProperty, PreparedCandidatesAreEvaluatedAsPrepared) {
  const Fixture fixture;
  const std::vector<Selection> candidates = {RandomHalf(fixture.space, 1),
                                             RandomHalf(fixture.space, 2)};
  const auto recalibrate = [&](Network& network, const Selection&) {
    Loader loader(fixture.splits.train(), {.batch_size = 10, .augment = false, .seed = 3});
    RecalibrateBatchNorm(network, loader, 2);
  };
  CandidateEvaluator evaluator(
      fixture.space, fixture.set,
      {.batch_size = 40, .workers = 2, .race = {.on = false}, .prepare = recalibrate});
  const auto scores = evaluator.Evaluate(candidates);
  for (size_t c = 0; c < candidates.size(); ++c) {
    Network cut = Cut(fixture.space.network(), MakePlan(fixture.space, candidates[c]));
    recalibrate(cut, candidates[c]);
    EXPECT_DOUBLE_EQ(scores[c].value,
                     Evaluate(cut, fixture.splits.validation(), {}, {.fast = false}).value);
  }
  CandidateEvaluator breaks(fixture.space, fixture.set,
                            {.workers = 1, .prepare = [](Network&, const Selection&) {
                               throw std::runtime_error("made-up: no statistics");
                             }});
  EXPECT_NE(breaks.Evaluate(candidates)[0].cause.find("no statistics"), std::string::npos);
}

TEST(CandidateEvaluatorUnit, RemembersWhatItEvaluated) {
  const Fixture fixture;
  CandidateEvaluator evaluator(fixture.space, fixture.set,
                               {.batch_size = 90, .workers = 1, .race = {.on = false}});
  const Selection one = RandomHalf(fixture.space, 1), other = RandomHalf(fixture.space, 2);
  const std::vector<Selection> twice = {one, other, one};
  const auto scores = evaluator.Evaluate(twice);
  EXPECT_EQ(scores[0].value, scores[2].value);
  EXPECT_EQ(evaluator.counters().samples, 2 * 90);
  EXPECT_EQ(evaluator.Evaluate(other).value, scores[1].value);
  EXPECT_EQ(evaluator.counters().samples, 2 * 90);
  EXPECT_EQ(evaluator.counters().evaluated, 2);
  EXPECT_EQ(evaluator.counters().remembered, 2);
}

/// A set that goes wrong for the candidates and batches it is told to.
struct FaultySet final : ComparisonSet {
  explicit FaultySet(const ComparisonSet& base) : inner(base) {}
  int64_t samples() const override { return inner.samples(); }
  std::vector<Tensor> Inputs(int64_t first, int64_t count) const override {
    if (count > most && device_like)
      throw c10::OutOfMemoryError({__func__, __FILE__, __LINE__}, "made-up: out of memory");
    if (count > most)  // as LibTorch 2.13 does on the CPU; sanitizers do not let it fail for real
      throw c10::Error(
          {__func__, __FILE__, __LINE__},
          "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.");
    return inner.Inputs(first, count);
  }
  Tensor PerSample(const std::vector<Tensor>& outputs, int64_t first,
                   int64_t count) const override {
    const double mark = outputs.front()[0][0].item<double>();
    if (first == 0) marks.push_back(mark);
    if (first == 0 && marks.size() == 2) {
      if (fault == "throw") throw std::runtime_error("made-up: worker broke");
      if (fault == "nan") return at::full({count}, std::numeric_limits<float>::quiet_NaN());
    }
    return inner.PerSample(outputs, first, count);
  }
  const ComparisonSet& inner;
  int64_t most = 1 << 20;
  bool device_like = true;
  std::string fault;
  mutable std::vector<double> marks;
};

TEST(CandidateEvaluatorUnit, ACandidateThatBreaksIsAFailedTrialAndTheOthersGoOn) {
  const Fixture fixture;
  const std::vector<Selection> candidates = {
      RandomHalf(fixture.space, 1), RandomHalf(fixture.space, 2), RandomHalf(fixture.space, 3)};
  for (const auto& [fault, cause] :
       {std::pair("throw", "worker broke"), std::pair("nan", "not finite")}) {
    FaultySet set(fixture.set);
    set.fault = fault;
    CandidateEvaluator evaluator(fixture.space, set, {.batch_size = 30, .workers = 1});
    int failed = 0;
    for (const CandidateScore& score : evaluator.Evaluate(candidates)) {
      failed += score.failed;
      if (score.failed) {
        EXPECT_NE(score.cause.find(cause), std::string::npos) << score.cause;
      } else {
        EXPECT_EQ(score.samples, 90);
      }
    }
    EXPECT_EQ(failed, 1);
    EXPECT_EQ(evaluator.counters().failed, 1);
  }
}

TEST(CandidateEvaluatorUnit, HalvesTheBatchWhenMemoryIsShort) {
  const Fixture fixture;
  const std::vector<Selection> candidates = {RandomHalf(fixture.space, 1),
                                             RandomHalf(fixture.space, 2)};
  CandidateEvaluator plenty(fixture.space, fixture.set, {.batch_size = 90, .workers = 1});
  FaultySet set(fixture.set);
  const auto expected = plenty.Evaluate(candidates);
  for (const bool device_like : {true, false}) {
    set.most = 12;
    set.device_like = device_like;
    CandidateEvaluator short_of(fixture.space, set, {.batch_size = 90, .workers = 1});
    const auto found = short_of.Evaluate(candidates);
    for (size_t c = 0; c < candidates.size(); ++c) {
      EXPECT_FALSE(found[c].failed) << found[c].cause;
      EXPECT_EQ(found[c].value, expected[c].value);
    }
  }
  set.most = 0;
  EXPECT_THROW(CandidateEvaluator(fixture.space, set, {.workers = 1}).Evaluate(candidates), Error);
}

/// Samples that become harder for all, on which the first candidate that runs gains 1 more each.
struct DriftingSet final : ComparisonSet {
  explicit DriftingSet(const ComparisonSet& base) : inner(base) {}
  int64_t samples() const override { return inner.samples(); }
  std::vector<Tensor> Inputs(int64_t first, int64_t count) const override {
    return inner.Inputs(first, count);
  }
  Tensor PerSample(const std::vector<Tensor>&, int64_t first, int64_t count) const override {
    const double level = first > 0 || started++ == 0 ? 1 : 0;
    return level - at::arange(first, first + count, at::kFloat);
  }
  const ComparisonSet& inner;
  mutable int started = 0;
};

TEST(CandidateEvaluatorProperty, ADroppedCandidateGetsWhatIsToBeExpectedOnAllSamples) {
  const Fixture fixture;
  const DriftingSet set(fixture.set);
  CandidateEvaluator evaluator(
      fixture.space, set,
      {.batch_size = 90, .workers = 1, .share_prefixes = false, .race = {.first = 30}});
  const std::vector<Selection> candidates = {RandomHalf(fixture.space, 1),
                                             RandomHalf(fixture.space, 2)};
  const auto scores = evaluator.Evaluate(candidates);
  EXPECT_TRUE(scores[1].dropped);
  EXPECT_EQ(scores[1].samples, 30);
  EXPECT_FLOAT_EQ(scores[0].value, 1 - 89 / 2.0);
  EXPECT_FLOAT_EQ(scores[1].value, -89 / 2.0) << "not -29 / 2, its mean over the easy ones";
}

/// Fails on samples from the 60th on.
struct LateFaultSet final : ComparisonSet {
  explicit LateFaultSet(const ComparisonSet& base) : inner(base) {}
  int64_t samples() const override { return inner.samples(); }
  std::vector<Tensor> Inputs(int64_t first, int64_t count) const override {
    return inner.Inputs(first, count);
  }
  Tensor PerSample(const std::vector<Tensor>& outputs, int64_t first,
                   int64_t count) const override {
    if (first + count > 60) throw std::runtime_error("made-up: a bad sample");
    return inner.PerSample(outputs, first, count);
  }
  const ComparisonSet& inner;
};

TEST(CandidateEvaluatorUnit, AFailureOnManySamplesSaysNothingOfFewer) {
  const Fixture fixture;
  const LateFaultSet set(fixture.set);
  const std::vector<Selection> one = {RandomHalf(fixture.space, 1)};
  CandidateEvaluator evaluator(fixture.space, set, {.batch_size = 30, .workers = 1}),
      fresh(fixture.space, set, {.batch_size = 30, .workers = 1});
  EXPECT_TRUE(evaluator.Evaluate(one).front().failed);
  EXPECT_EQ(evaluator.Evaluate(one, 60).front().value, fresh.Evaluate(one, 60).front().value);
  EXPECT_TRUE(evaluator.Evaluate(one).front().failed) << "still";
}

TEST(CandidateEvaluatorProperty, AnyMetricAgreesWithEvaluatingTheCutNetwork) {
  const Fixture fixture;
  const Selection candidate = RandomHalf(fixture.space, 3);
  const Network cut = Cut(fixture.space.network(), MakePlan(fixture.space, candidate));
  Task task;
  task.uncut = std::make_shared<const Network>(fixture.space.network());
  for (const std::string metric : {"agreement", "output_error", "kl", "cross_entropy"}) {
    SCOPED_TRACE(metric);
    task.metric = metric;
    const TaskSamples set(fixture.splits.validation(), task, fixture.space.network());
    CandidateEvaluator evaluator(fixture.space, set, {.workers = 2, .race = {.on = false}});
    const CandidateScore found = evaluator.Evaluate(candidate);
    const Score expected = Evaluate(cut, fixture.splits.validation(), task, {.fast = false});
    const double sign = HasFact(metric, kLowerIsBetter) ? -1 : 1;
    EXPECT_FALSE(found.failed) << found.cause;
    EXPECT_NEAR(sign * found.value, expected.value, 1e-4 * std::abs(expected.value));
    // Its tangent touches at the uncut network, that of the score at the cut one: near each other
    // for means over samples, and at least as large where both numbers of a quotient move together.
    if (metric == "kl" || metric == "cross_entropy")
      EXPECT_NEAR(found.standard_error / expected.standard_error, 1, 0.5);
    else
      EXPECT_GE(found.standard_error, expected.standard_error / 2);
  }
}

TEST(CandidateEvaluatorProperty, SamplesAreTheSameWhetherTheyArePreparedBeforeOrBatchByBatch) {
  const Fixture fixture;
  Task task;
  task.uncut = std::make_shared<const Network>(fixture.space.network());
  task.metric = "agreement";
  const TaskSamples before(fixture.splits.validation(), task, fixture.space.network()),
      later(fixture.splits.validation(), task, fixture.space.network(), 0, 0, at::kCPU, 0);
  for (const auto& [first, count] : {std::pair(0, 90), std::pair(30, 7)}) {
    const Tensor inputs = before.Inputs(first, count).front();
    EXPECT_TRUE(at::equal(inputs, later.Inputs(first, count).front()));
    EXPECT_EQ(inputs.suggest_memory_format(), at::MemoryFormat::ChannelsLast);
    const std::vector<Tensor> outputs = {at::randn({count, 10})};
    EXPECT_TRUE(
        at::equal(before.PerSample(outputs, first, count), later.PerSample(outputs, first, count)));
  }
}

TEST(CandidateEvaluatorUnit, ClassesTakeTurnsInTheOrder) {
  const Fixture fixture;
  const TaskSamples some(fixture.splits.validation(), {}, fixture.space.network(), 10);
  EXPECT_EQ(some.samples(), 10);
  std::set<int64_t> classes;
  for (int64_t label = 0; label < 10; ++label) {
    const Tensor logits = at::one_hot(at::full({10}, label, at::kLong), 10).to(at::kFloat);
    EXPECT_EQ(some.PerSample({logits}, 0, 10).sum().item<double>(), 1) << "one image a class";
  }
}

}  // namespace
}  // namespace espalier

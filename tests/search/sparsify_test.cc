#include "search/sparsify.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "criteria/regularisers/regulariser.h"
#include "env/base/interrupt.h"
#include "env/base/log.h"
#include "tests/support/tiny_environment.h"

namespace espalier {
namespace {

SparsifyConfig Config(const std::string& regulariser, int64_t epochs = 2) {
  SetQuiet(true);
  SparsifyConfig config;
  config.regulariser = regulariser;
  config.train.epochs = epochs;
  config.train.batch_size = 40;
  config.train.precision = "fp32";
  return config;
}

SparsifyResult MakeSparse(const SparsifyConfig& config, const std::filesystem::path& folder = {}) {
  const TinyEnvironment tiny;
  return Sparsify(tiny.Get(), config, {.seed = 3, .folder = folder});
}

/// Percentile p of the units' norms, relative to their group's largest, after each epoch.
double Percentile(const SparsifyResult& result, size_t epoch, size_t p) {
  return result.info.at("norms").at(epoch).at(p / 5);
}

TEST(SparsifyUnit, MovesWeakAndStrongUnitsApart) {
  // 2 epochs of 4 steps: a strong pull shows at once.
  const SparsifyResult with = MakeSparse(Config("group_sparsity(lambda=0.5)"));
  const SparsifyResult without = MakeSparse(Config("group_sparsity(lambda=0)"));
  EXPECT_LT(Percentile(with, 2, 25), 0.7 * Percentile(with, 0, 25));
  EXPECT_LT(Percentile(with, 2, 25), 0.7 * Percentile(without, 2, 25));
  EXPECT_EQ(Percentile(with, 0, 25), Percentile(without, 0, 25)) << "before the first epoch";
  EXPECT_LT(Percentile(with, 2, 0), 0.7 * Percentile(with, 0, 0)) << "least over largest";
  EXPECT_EQ(Percentile(with, 2, 100), 1) << "the largest of some group";
  for (const double penalty : without.info.at("penalty")) EXPECT_EQ(penalty, 0);
}

TEST(SparsifyUnit, LeavesTheEnvironmentsWeightsAlone) {
  const TinyEnvironment tiny;
  const std::string before = tiny.network().WeightsHash();
  const SparsifyResult result = Sparsify(tiny.Get(), Config("growing"), {.seed = 3});
  EXPECT_EQ(tiny.network().WeightsHash(), before);
  EXPECT_NE(result.network.WeightsHash(), before);
  EXPECT_EQ(result.history.size(), 2U);
  EXPECT_EQ(result.info.at("norms").size(), 3U);
}

TEST(SparsifyUnit, AnotherRegulariserDoesNotTakeUpItsCheckpoint) {
  const TemporaryFolder folder;
  MakeSparse(Config("growing"), folder.path());
  try {
    MakeSparse(Config("growing(delta=1)"), folder.path());
    FAIL() << "taken up";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kData);
    EXPECT_THAT(error.message(), testing::HasSubstr("different: penalty"));
  }
}

TEST(SparsifyUnit, ARegulariserThatIsNotFiniteIsNamed) {
  try {
    MakeSparse(Config("group_sparsity(lambda=1e30)"));
    FAIL() << "trained on";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kTrials);
    EXPECT_THAT(error.message(),
                testing::HasSubstr("the regulariser 'group_sparsity(lambda=1e30)' is not finite"));
    EXPECT_THAT(error.message(), testing::HasSubstr("epoch 1, batch"));
  }
}

class SparsifyConformance : public testing::TestWithParam<std::string> {};

TEST_P(SparsifyConformance, InterruptedAfterEveryBatchEqualsUninterrupted) {
  const SparsifyResult whole = MakeSparse(Config(GetParam(), 3));
  const TemporaryFolder folder;
  for (int stops = 0;; ++stops) {
    ASSERT_LT(stops, 20);
    try {
      RequestInterrupt();
      const SparsifyResult pieces = MakeSparse(Config(GetParam(), 3), folder.path());
      ClearInterrupt();
      EXPECT_EQ(stops, 11) << "3 epochs of 4 batches";
      EXPECT_EQ(pieces.network.WeightsHash(), whole.network.WeightsHash());
      EXPECT_EQ(pieces.info, whole.info);
      return;
    } catch (const Error& error) {
      ClearInterrupt();
      ASSERT_EQ(error.kind(), ErrorKind::kInterrupted) << error.what();
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, SparsifyConformance,
                         testing::ValuesIn(Registry<Regulariser>::Global().Names()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace espalier

#include "env/train/schedule.h"

#include <gtest/gtest.h>

namespace espalier {
namespace {

TrainConfig Config(const std::string& schedule, int64_t epochs, double warmup) {
  TrainConfig config;
  config.schedule = schedule;
  config.epochs = epochs;
  config.warmup_epochs = warmup;
  config.lr = 0.8;
  return config;
}

TEST(ScheduleUnit, CosineFallsFromLrToZero) {
  const TrainConfig config = Config("cosine", 4, 0);
  EXPECT_DOUBLE_EQ(LearningRate(config, 0, 10), 0.8);
  EXPECT_NEAR(LearningRate(config, 20, 10), 0.4, 1e-12);  // half way: cos(pi / 2) = 0
  EXPECT_NEAR(LearningRate(config, 40, 10), 0, 1e-12);
}

TEST(ScheduleUnit, WarmupRisesLinearlyFromAHundredth) {
  const TrainConfig config = Config("cosine", 4, 2);
  EXPECT_DOUBLE_EQ(LearningRate(config, 0, 10), 0.008);
  EXPECT_NEAR(LearningRate(config, 10, 10), 0.8 * 0.505, 1e-12);  // half of 2 epochs
  EXPECT_DOUBLE_EQ(LearningRate(config, 20, 10), 0.8);
  EXPECT_NEAR(LearningRate(config, 30, 10), 0.4, 1e-12);  // half of the 2 epochs that are left
}

TEST(ScheduleUnit, StepMultipliesAtMilestones) {
  TrainConfig config = Config("step", 10, 0);
  config.milestones = {3, 5};
  config.gamma = 0.5;
  EXPECT_DOUBLE_EQ(LearningRate(config, 29, 10), 0.8);
  EXPECT_DOUBLE_EQ(LearningRate(config, 30, 10), 0.4);
  EXPECT_DOUBLE_EQ(LearningRate(config, 50, 10), 0.2);
}

TEST(ScheduleUnit, OneCycleRisesThenFallsLinearlyToZero) {
  TrainConfig config = Config("one_cycle", 10, 2);
  EXPECT_DOUBLE_EQ(LearningRate(config, 20, 10), 0.8);
  EXPECT_NEAR(LearningRate(config, 60, 10), 0.4, 1e-12);
  EXPECT_NEAR(LearningRate(config, 100, 10), 0, 1e-12);
  config.warmup_epochs = 0;  // then 30 % of 10 epochs
  EXPECT_DOUBLE_EQ(LearningRate(config, 30, 10), 0.8);
  EXPECT_LT(LearningRate(config, 29, 10), 0.8);
}

TEST(ScheduleUnit, ConstantStaysAfterItsWarmup) {
  const TrainConfig config = Config("constant", 4, 1);
  EXPECT_LT(LearningRate(config, 9, 10), 0.8);
  EXPECT_DOUBLE_EQ(LearningRate(config, 10, 10), 0.8);
  EXPECT_DOUBLE_EQ(LearningRate(config, 39, 10), 0.8);
}

}  // namespace
}  // namespace espalier

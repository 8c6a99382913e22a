#include "env/task/task.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "env/base/error.h"
#include "env/graph/builder.h"

namespace espalier {
namespace {

using testing::HasSubstr;

/// [B, 4] -> [B, outputs].
Network Linear(int64_t outputs) {
  Builder b("linear", 1);
  const auto x = b.Input("x", {2, 4});
  return b.Finish({b.Linear("fc", x, 4, outputs)});
}

Dataset Samples(const std::vector<Tensor>& targets) {
  return {.inputs = {at::randn({3, 4})}, .targets = targets};
}

std::string Problem(const TaskConfig& config, const Dataset& samples, const Network& network) {
  try {
    MakeTask(config, samples, network);
  } catch (const Error& error) {
    return error.message() + "\n" + error.hint();
  }
  return "no error";
}

TEST(TaskUnit, DefaultsFollowFromTargetsAndOutputs) {
  const auto names = [](const Task& task) { return task.loss + " " + task.metric; };
  const Tensor classes = at::tensor({0, 1, 2}, at::kLong);
  EXPECT_EQ(names(MakeTask({}, Samples({classes}), Linear(3))), "cross_entropy accuracy");
  EXPECT_EQ(names(MakeTask({}, Samples({at::randn({3, 2})}), Linear(2))), "mse mse");
  EXPECT_EQ(names(MakeTask({}, Samples({}), Linear(3))), "kl agreement");
  EXPECT_EQ(names(MakeTask({}, Samples({}), Linear(1))), "mse_outputs output_error");
  EXPECT_EQ(names(MakeTask({.loss = "kl"}, Samples({classes}), Linear(3))), "kl accuracy");
}

TEST(TaskUnit, WhatDoesNotFitIsSaidBeforeAnythingStarts) {
  EXPECT_THAT(Problem({.metric = "accuracy"}, Samples({}), Linear(3)),
              testing::AllOf(HasSubstr("'accuracy' needs targets"), HasSubstr("\"agreement\"")));
  EXPECT_THAT(Problem({.loss = "cross_entropi"}, Samples({}), Linear(3)),
              HasSubstr("did you mean 'cross_entropy'"));
  EXPECT_THAT(Problem({.metric = "acuracy"}, Samples({}), Linear(3)),
              HasSubstr("did you mean 'accuracy'"));
  EXPECT_THAT(Problem({}, Samples({at::tensor({0, 1, 7}, at::kLong)}), Linear(3)),
              HasSubstr("target 7 of sample 2: the network tells 3 classes apart"));
  EXPECT_THAT(Problem({}, Samples({at::randn({3, 5})}), Linear(2)), HasSubstr("target 0"));
}

TEST(TaskUnit, GradientCriteriaGetALossThatHasAGradientAtTheUncutNetwork) {
  const auto text = [](const Task& task) { return task.MakeSensitivity().text(); };
  const Tensor classes = at::tensor({0, 1, 2}, at::kLong);
  EXPECT_EQ(text(MakeTask({}, Samples({classes}), Linear(3))), "cross_entropy");
  EXPECT_EQ(text(MakeTask({.loss = "kl"}, Samples({classes}), Linear(3))), "pseudo_label");
  EXPECT_EQ(text(MakeTask({.loss = "cross_entropy + kl"}, Samples({classes}), Linear(3))),
            "cross_entropy + kl");
  EXPECT_EQ(text(MakeTask({}, Samples({}), Linear(3))), "pseudo_label");
  EXPECT_EQ(text(MakeTask({}, Samples({}), Linear(1))), "disturbed_mse");
}

TEST(TaskUnit, UncutOutputsRunOnlyWhenNeeded) {
  const Network network = Linear(3);
  const Task task = MakeTask({}, Samples({}), network);
  const Tensor x = at::randn({2, 4});
  EXPECT_TRUE(UncutOutputs(task, false, at::kCPU).Run({x}).empty());
  EXPECT_TRUE(at::equal(UncutOutputs(task, true, at::kCPU).Run({x})[0], Forward(network, x)));
  EXPECT_THROW(UncutOutputs(Task{}, true, at::kCPU), Error);
  EXPECT_TRUE(task.compares());
  EXPECT_FALSE(Task{}.compares());
}

}  // namespace
}  // namespace espalier

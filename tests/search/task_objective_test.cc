#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "env/graph/executor.h"
#include "search/task_loss.h"
#include "search/unit_scores.h"
#include "tests/support/tiny_environment.h"

// What the criterion `ablation` measures in a search.

namespace espalier {
namespace {

/// The tiny environment, with or without labels, and the cut of each group's first unit.
class TaskObjectiveUnit : public testing::Test {
 protected:
  Environment Unlabelled() {
    const auto without = [](Dataset samples) {
      samples.targets.clear();
      return samples;
    };
    const Splits& all = *tiny_.Get().splits;
    splits_.emplace(all.config(), without(all.train()), without(all.validation()),
                    without(all.test()));
    Environment environment = tiny_.Get();
    environment.splits = &*splits_;
    environment.task = MakeTask({}, splits_->train(), tiny_.network());
    return environment;
  }
  /// Scores by ablation against loss(cut outputs, uncut outputs, batch) of every network that lacks
  /// the first unit of one group.
  void ExpectIncreases(const Environment& environment,
                       const std::function<Tensor(Tensor, Tensor, Batch)>& loss) {
    SearchContext context{.seed = 3};
    const CalibrationConfig config{.batches = 2, .batch_size = 16};
    const auto scores = ScoreUnits("ablation", environment, context, "test", config).scores;
    const Calibration calibration = CalibrationFrom(environment, context, "test", config);
    const at::NoGradGuard no_grad;
    const Space& space = environment.space;
    for (size_t g = 0; g < scores.size(); ++g) {
      SCOPED_TRACE(space.groups()[g].name);
      Selection selection = KeepAll(space);
      selection[g].erase(selection[g].begin());
      const Network cut = Cut(space.network(), MakePlan(space, selection));
      double increase = 0;
      for (int64_t b = 0; b < config.batches; ++b) {
        const Batch batch = calibration.get(b);
        const Tensor wanted = Forward(tiny_.network(), batch.inputs[0]);
        const Tensor found = Forward(cut, batch.inputs[0]);
        increase += (loss(found, wanted, batch) - loss(wanted, wanted, batch)).item<double>();
      }
      EXPECT_NEAR(scores[g][0], increase / 2, 1e-5);
    }
  }
  const TinyEnvironment tiny_;
  std::optional<Splits> splits_;
};

TEST_F(TaskObjectiveUnit, WithoutLabelsItIsTheDivergenceFromTheUncutNetwork) {
  const Environment environment = Unlabelled();
  ASSERT_EQ(environment.task.loss, "kl");
  ExpectIncreases(environment, [](const Tensor& found, const Tensor& wanted, const Batch&) {
    const Tensor log_q = at::log_softmax(wanted, 1);
    return (log_q.exp() * (log_q - at::log_softmax(found, 1))).sum(1).mean();
  });
}

TEST_F(TaskObjectiveUnit, WithLabelsItIsTheTasksLoss) {
  ExpectIncreases(tiny_.Get(), [](const Tensor& found, const Tensor&, const Batch& batch) {
    return at::cross_entropy_loss(found, batch.targets[0]);
  });
}

TEST_F(TaskObjectiveUnit, GradientsAreTakenOfTheSensitivityAllTheSame) {
  const Environment environment = Unlabelled();
  const Batch batch = splits_->train().Range(0, 8);
  const std::vector<Tensor> uncut = {Forward(tiny_.network(), batch.inputs[0])};
  EXPECT_GT(TaskLoss(environment)(uncut, batch).item<double>(), 0.01);  // pseudo-labels
  EXPECT_NEAR(TaskObjective(environment)(batch)(uncut).item<double>(), 0, 1e-7);
}

}  // namespace
}  // namespace espalier

#include "env/train/trainer.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "env/base/error.h"
#include "env/base/interrupt.h"
#include "env/base/log.h"
#include "env/graph/builder.h"
#include "tests/support/tiny_data.h"

namespace espalier {
namespace {

using testing::HasSubstr;
using testing_support::TempFolder;
using testing_support::TinySplits;

/// conv, bn, relu, a residual block, dropout, pool, linear: what a checkpoint has to cover.
Network TinyNet(uint64_t seed = 1, int64_t width = 6) {
  Builder b("tiny", seed);
  auto x = b.Input("x", {2, 3, 8, 8});
  x = b.Relu(b.BatchNorm2d("bn1", b.Conv2d("conv1", x, 3, width, {.padding = 1}), width));
  const auto branch =
      b.BatchNorm2d("bn2", b.Conv2d("conv2", x, width, width, {.padding = 1}), width);
  x = b.Relu(b.Add(branch, x));
  x = b.Dropout(b.Flatten(b.GlobalAvgPool(x)), 0.2, "drop");
  return b.Finish({b.Linear("fc", x, width, 10)});
}

TrainConfig TinyConfig(const std::string& optimizer = "sgd") {
  SetQuiet(true);
  at::set_num_threads(1);  // faster for networks this small
  TrainConfig config;
  config.epochs = 3;
  config.batch_size = 10;
  config.optimizer = optimizer;
  config.lr = optimizer == "sgd" ? 0.1 : 0.01;
  config.precision = "fp32";
  return config;
}

void ExpectSameWeights(const Network& a, const Network& b) {
  for (const std::string& name : a.store.names())
    EXPECT_TRUE(at::equal(a.store.Get(name), b.store.Get(name))) << name;
}

/// Trains with an interrupt after every batch; each attempt starts from the fresh weights.
TrainResult TrainInPieces(Network& network, const Splits& splits, const TrainConfig& config,
                          const std::filesystem::path& folder, int* stops) {
  *stops = 0;
  for (;;) {
    Network attempt = network;
    try {
      RequestInterrupt();  // stops after one batch each time
      TrainResult result = Train(attempt, splits, {}, config, 5, folder);
      ClearInterrupt();
      network = attempt;
      return result;
    } catch (const Error& error) {
      ClearInterrupt();
      if (error.kind() != ErrorKind::kInterrupted) throw;
      ++*stops;
    }
  }
}

TEST(TrainerUnit, LearnsColours) {
  const Splits splits = TinySplits(200, 50, 10);
  Network network = TinyNet();
  TrainConfig config = TinyConfig();
  config.epochs = 8;
  std::vector<int64_t> epochs;
  const TrainResult result =
      Train(network, splits, {}, config, 5, {},
            [&](const EpochRecord& record) { epochs.push_back(record.epoch); });
  EXPECT_THAT(epochs, testing::ElementsAre(1, 2, 3, 4, 5, 6, 7, 8));
  ASSERT_EQ(result.history.size(), 8U);
  EXPECT_LT(result.history.back().train_loss, 0.6 * result.history.front().train_loss);
  EXPECT_GT(result.history.back().validation_metric, 0.5);  // chance: 0.1
  for (const std::string& name : network.store.names()) {
    EXPECT_FALSE(network.store.Get(name).requires_grad()) << name;
    EXPECT_TRUE(network.store.Get(name).is_contiguous()) << name;
  }
}

TEST(TrainerProperty, InterruptedAfterEveryBatchEqualsUninterrupted) {
  const Splits splits = TinySplits(47, 20, 10);  // 4 batches of 10, 7 images left out
  for (const std::string optimizer : {"sgd", "adamw"})
    for (const double ema : {0.0, 0.9}) {
      SCOPED_TRACE(Str(optimizer, " ema ", ema));
      TrainConfig config = TinyConfig(optimizer);
      config.ema_decay = ema;
      const TempFolder folder("resume");
      Network whole = TinyNet(), pieces = TinyNet();
      const TrainResult expected = Train(whole, splits, {}, config, 5, {});
      int stops = 0;
      const TrainResult got = TrainInPieces(pieces, splits, config, folder.path(), &stops);
      EXPECT_EQ(stops, 11) << "after each of 3 x 4 batches but the last";
      ExpectSameWeights(whole, pieces);
      ASSERT_EQ(expected.history.size(), got.history.size());
      for (size_t i = 0; i < expected.history.size(); ++i) {
        EXPECT_EQ(expected.history[i].train_loss, got.history[i].train_loss);
        EXPECT_EQ(expected.history[i].train_metric, got.history[i].train_metric);
        EXPECT_EQ(expected.history[i].validation_metric, got.history[i].validation_metric);
        EXPECT_EQ(expected.history[i].lr, got.history[i].lr);
      }
    }
}

TEST(TrainerUnit, FinishedTrainingIsTakenFromItsCheckpoint) {
  const Splits splits = TinySplits(40, 20, 10);
  const TempFolder folder("finished");
  Network first = TinyNet(), again = TinyNet();
  Train(first, splits, {}, TinyConfig(), 5, folder.path());
  int calls = 0;
  const TrainResult result = Train(again, splits, {}, TinyConfig(), 5, folder.path(),
                                   [&](const EpochRecord&) { ++calls; });
  EXPECT_EQ(calls, 0);
  EXPECT_EQ(result.history.size(), 3U);
  ExpectSameWeights(first, again);
}

TEST(TrainerUnit, SeedsAndInputsOfAnotherTrainingAreRefusedByName) {
  const Splits splits = TinySplits(40, 20, 10), others = TinySplits(50, 20, 10);
  const TempFolder folder("other");
  Network network = TinyNet();
  Train(network, splits, {}, TinyConfig(), 5, folder.path());
  TrainConfig longer = TinyConfig();
  longer.epochs = 4;
  const auto refused = [&](Network other, const Splits& data, const TrainConfig& config,
                           uint64_t seed) -> std::string {
    try {
      Train(other, data, {}, config, seed, folder.path());
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kData);
      EXPECT_THAT(error.message(), HasSubstr((folder.path() / "checkpoint.safetensors").string()));
      return error.message();
    }
    return "not refused";
  };
  EXPECT_THAT(refused(TinyNet(), splits, TinyConfig(), 6), HasSubstr("different: seed"));
  EXPECT_THAT(refused(TinyNet(2), splits, TinyConfig(), 5),
              HasSubstr("different: initial weights"));
  EXPECT_THAT(refused(TinyNet(), others, TinyConfig(), 5), HasSubstr("different: data"));
  EXPECT_THAT(refused(TinyNet(), splits, longer, 5), HasSubstr("different: train config"));
}

TEST(TrainerUnit, DamagedCheckpointIsAClearError) {
  const Splits splits = TinySplits(40, 20, 10);
  const TempFolder folder("damaged");
  Network network = TinyNet();
  Train(network, splits, {}, TinyConfig(), 5, folder.path());
  const auto file = folder.path() / "checkpoint.safetensors";
  const auto size = std::filesystem::file_size(file);
  for (const uintmax_t bytes : {size - 1, size / 2, uintmax_t{100}, uintmax_t{4}, uintmax_t{0}}) {
    SCOPED_TRACE(bytes);
    std::filesystem::resize_file(file, bytes);
    Network fresh = TinyNet();
    try {
      Train(fresh, splits, {}, TinyConfig(), 5, folder.path());
      ADD_FAILURE() << "a truncated checkpoint was accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kData);
      EXPECT_THAT(error.message(), HasSubstr(file.string()));
      EXPECT_THAT(error.hint(), HasSubstr("delete the file"));
    }
    ExpectSameWeights(fresh, TinyNet());
  }
}

TEST(TrainerUnit, NonFiniteLossNamesEpochAndBatch) {
  const Splits splits = TinySplits(40, 20, 10);
  Network network = TinyNet();
  Tensor bias = network.store.Get("fc.bias").clone();
  bias[3] = std::numeric_limits<float>::quiet_NaN();
  network.store.Set("fc.bias", bias);
  try {
    Train(network, splits, {}, TinyConfig(), 5, {});
    ADD_FAILURE() << "training with NaN went on";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kTrials);
    EXPECT_THAT(error.message(), HasSubstr("epoch 1, batch 1"));
  }
}

/// Adds a constant times the first weight's sum; NaN from some step on.
class Constant final : public WeightPenalty {
 public:
  explicit Constant(int64_t bad_step) : bad_step_(bad_step) {}
  std::string Name() const override { return "the constant pull"; }
  std::string Identity() const override { return "constant"; }
  void Attach(const ParameterStore& weights) override {
    weight_ = weights.Get("fc.weight");
    steps_ = at::zeros({}, at::kLong);
  }
  Tensor Value() override {
    const auto step = steps_.add_(1).item<int64_t>();
    return weight_.sum() * (step == bad_step_ ? std::numeric_limits<double>::quiet_NaN() : 0.1);
  }
  void EndEpoch(int64_t epoch) override { epochs_.push_back(epoch); }
  std::vector<NamedTensor> State() const override { return {{"steps", steps_}}; }
  const std::vector<int64_t>& epochs() const { return epochs_; }

 private:
  const int64_t bad_step_;
  Tensor weight_, steps_;
  std::vector<int64_t> epochs_;
};

TEST(TrainerUnit, APenaltyPullsBesideTheLossAndIsNamedWhenItIsNotFinite) {
  const Splits splits = TinySplits(40, 20, 10);
  TrainConfig config = TinyConfig();
  config.epochs = 1;
  config.limit_batches = 1;
  config.momentum = config.weight_decay = 0;
  Network plain = TinyNet(), pulled = TinyNet();
  Constant penalty(-1);
  const TrainResult alone = Train(plain, splits, {}, config, 5, {});
  const TrainResult beside = Train(pulled, splits, {}, config, 5, {}, {}, &penalty);
  EXPECT_EQ(alone.history[0].train_loss, beside.history[0].train_loss) << "the task's loss alone";
  EXPECT_THAT(penalty.epochs(), testing::ElementsAre(1));
  // One step of lr 0.1 against a gradient of 0.1.
  EXPECT_TRUE(
      at::allclose(pulled.store.Get("fc.weight"), plain.store.Get("fc.weight") - 0.01, 0, 1e-6));
  Constant bad(2);
  config.limit_batches = 3;
  try {
    Train(pulled, splits, {}, config, 5, {}, {}, &bad);
    FAIL() << "trained on";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kTrials);
    EXPECT_THAT(error.message(), HasSubstr("the constant pull is not finite in epoch 1, batch 2"));
  }
}

TEST(TrainerUnit, Bfloat16TrainsAndMasterWeightsStayFloat32) {
  const Splits splits = TinySplits(200, 50, 10);
  Network network = TinyNet();
  TrainConfig config = TinyConfig();
  config.epochs = 8;
  config.precision = "bf16";
  const TrainResult result = Train(network, splits, {}, config, 5, {});
  EXPECT_GT(result.history.back().validation_metric, 0.5);
  EXPECT_EQ(network.store.Get("conv1.weight").scalar_type(), at::kFloat);
}

TEST(TrainerUnit, ChannelsLastEqualsContiguousUpToRounding) {
  const Splits splits = TinySplits(40, 20, 10);
  TrainConfig config = TinyConfig();
  config.epochs = 1;
  Network last = TinyNet(), contiguous = TinyNet();
  Train(last, splits, {}, config, 5, {});
  config.channels_last = false;
  Train(contiguous, splits, {}, config, 5, {});
  for (const std::string& name : last.store.names())
    EXPECT_TRUE(at::allclose(last.store.Get(name), contiguous.store.Get(name), 1e-3, 1e-4)) << name;
}

TEST(TrainerUnit, LabelSmoothingChangesNothingAtEqualLogits) {
  // Any target distribution costs log(10) = 2.302585 there.
  const Splits splits = TinySplits(40, 20, 10);
  for (const double smoothing : {0.0, 0.3}) {
    Network network = TinyNet();
    network.store.Set("fc.weight", at::zeros({10, 6}));
    network.store.Set("fc.bias", at::zeros({10}));
    TrainConfig config = TinyConfig();
    config.epochs = 1;
    config.lr = 0;
    config.label_smoothing = smoothing;
    const TrainResult result = Train(network, splits, {}, config, 5, {});
    EXPECT_NEAR(result.history[0].train_loss, 2.302585, 1e-5);
  }
}

TEST(TrainerUnit, DistilsOutputsAndFeaturesOfTheUncutNetworkWithoutLabels) {
  Splits labelled = TinySplits(200, 50, 10);
  const auto without = [](Dataset samples) {
    samples.targets.clear();
    return samples;
  };
  const Splits splits(labelled.config(), without(labelled.train()), without(labelled.validation()),
                      without(labelled.test()));
  const Network uncut = TinyNet(2);
  Task task{.loss = "kl", .metric = "agreement", .uncut = std::make_shared<const Network>(uncut)};
  for (const Op& op : uncut.graph.ops)
    if (op.target() == "aten::add.Tensor") task.features.push_back({op.outputs.front()});
  ASSERT_EQ(task.features.size(), 1U);
  TrainConfig config = TinyConfig("adamw");
  config.epochs = 6;
  for (const char* loss : {"", "square_head", "kl + 0.5 square_head", "kl + 0.5 mse_features"}) {
    SCOPED_TRACE(loss);
    config.loss = loss;
    Network network = TinyNet();
    const TrainResult result = Train(network, splits, task, config, 5, {});
    EXPECT_LT(result.history.back().train_loss, 0.8 * result.history.front().train_loss);
  }
  Network network = TinyNet();
  EXPECT_THROW(Train(network, splits, {}, config, 5, {}), Error) << "no uncut network";
}

TEST(TrainerUnit, EvalModeTrainsWeightsAndKeepsStatistics) {
  const Splits splits = TinySplits(40, 20, 10);
  for (const std::string mode : {"train", "eval"}) {
    SCOPED_TRACE(mode);
    TrainConfig config = TinyConfig();
    config.mode = mode;
    Network network = TinyNet();
    Train(network, splits, {}, config, 5, {});
    const auto same = [&](const char* name) {
      return at::equal(network.store.Get(name), TinyNet().store.Get(name));
    };
    EXPECT_EQ(same("bn1.running_mean"), mode == "eval");
    EXPECT_FALSE(same("conv1.weight"));
    EXPECT_FALSE(same("bn1.weight"));
  }
}

TEST(TrainerUnit, TheProcessWideGeneratorIsLeftAlone) {
  const Splits splits = TinySplits(40, 20, 10);
  at::manual_seed(3);
  const Tensor expected = at::randn({4});
  at::manual_seed(3);
  Network network = TinyNet();
  Train(network, splits, {}, TinyConfig(), 5, {});
  EXPECT_TRUE(at::equal(at::randn({4}), expected));
}

TEST(TrainerUnit, OtherCopiesOfTheNetworkKeepTheirWeights) {
  const Splits splits = TinySplits(40, 20, 10);
  Network network = TinyNet();
  const Network copy = network;
  Train(network, splits, {}, TinyConfig(), 5, {});
  ExpectSameWeights(copy, TinyNet());
  EXPECT_FALSE(at::equal(copy.store.Get("conv1.weight"), network.store.Get("conv1.weight")));
}

}  // namespace
}  // namespace espalier

// The search on real images: the committed ResNet-20 and CIFAR-10, skipped where the images are
// absent.
#include <gtest/gtest.h>

#include <filesystem>
#include <optional>

#include "controllers/bottleneck.h"
#include "env/graph/io.h"
#include "env/models/models.h"
#include "search/autobot.h"
#include "search/random.h"
#include "search/uniform.h"

namespace espalier {
namespace {

constexpr const char* kWeights = "experiments/weights/resnet20_cifar10.safetensors";
constexpr int64_t kImages = 1000;  // of the test split: 1.5 points of standard error at 50 %

class Resnet20E2e : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (!std::filesystem::exists("data/cifar10") || !std::filesystem::exists(kWeights)) return;
    splits_.emplace(Splits::Load({}));
    network_.emplace(BuildModel("resnet20"));
    LoadWeights(kWeights, network_->store);
    space_.emplace(BuildSpace(*network_, {.decouple_residuals = true, .exclude = {}}));
    cost_.emplace(*space_);
    BudgetConfig budget;
    budget.macs = Quantity{0.5, true};
    budget.convention = "autobot";
    budget_.emplace(*cost_, budget);
  }
  static void TearDownTestSuite() {
    budget_.reset();
    cost_.reset();
    space_.reset();
    network_.reset();
    splits_.reset();
  }
  void SetUp() override {
    if (!splits_) GTEST_SKIP() << "needs data/cifar10 (scripts/data cifar10) and " << kWeights;
  }

  static Environment Get() {
    return {.space = *space_, .cost = *cost_, .budget = *budget_, .splits = &*splits_};
  }
  static double Accuracy(const Network& network) {
    return Evaluate(network, splits_->test(), {}, {.limit = kImages}).value;
  }
  static double CutAccuracy(const Selection& selection) {
    return Accuracy(Cut(space_->network(), MakePlan(*space_, selection)));
  }
  /// Predictions with every gate at its value in lambda, by the plain gated path.
  static Tensor GatedPredictions(const Tensor& lambda) {
    const at::NoGradGuard no_grad;
    const Bottleneck bottleneck(*space_, 0.9, at::kCPU);
    const Executor executor(space_->network().graph);
    const Tensor images = splits_->test().Range(0, kImages).inputs[0];
    const std::vector<Gate> gates = bottleneck.Gates(lambda);
    return executor.Run(executor.Bind(space_->network().store), {images}, {.gates = gates})
        .front()
        .argmax(1);
  }
  static double AccuracyOf(const Tensor& predictions) {
    const Tensor right = predictions.eq(splits_->test().targets[0].narrow(0, 0, kImages));
    return right.to(at::kDouble).mean().item<double>();
  }

  static inline std::optional<Splits> splits_;
  static inline std::optional<Network> network_;
  static inline std::optional<Space> space_;
  static inline std::optional<CostModel> cost_;
  static inline std::optional<Budget> budget_;
};

TEST_F(Resnet20E2e, OpenGatesReproduceTheBaseAccuracy) {
  const Tensor open = at::ones({space_->total_units()});
  EXPECT_DOUBLE_EQ(AccuracyOf(GatedPredictions(open)), Accuracy(*network_));
}

TEST_F(Resnet20E2e, MaskedAndCutAccuracyAgree) {
  SearchContext context;
  const Selection selection = Uniform({}).Run(Get(), context).selection;
  const Tensor mask = at::tensor(UnitMask(*space_, selection), at::kByte).to(at::kFloat);
  const double masked = AccuracyOf(GatedPredictions(mask.clamp_min(1e-8)));
  EXPECT_NEAR(masked, CutAccuracy(selection), 1.0 / kImages);  // at most one image at a tie
}

TEST_F(Resnet20E2e, ThirtyBatchesBeatRandomUnitsAndAUniformRatio) {
  SearchContext context{.seed = 1};
  const SearchResult found = Autobot({.batches = 30}).Run(Get(), context);
  const double accuracy = CutAccuracy(found.selection);
  // The same counts with random units, and one ratio with the units the gates rank highest.
  Rng rng(1, 0, "control");
  const double random =
      CutAccuracy(SelectTop(*space_, RandomScores(*space_, rng), KeptCounts(found.selection)));
  const double uniform = CutAccuracy(
      SelectTop(*space_, found.scores, budget_->Project(Decision(space_->groups().size(), 1.0))));
  EXPECT_GT(accuracy, random + 0.15) << "random " << random;
  EXPECT_GT(accuracy, uniform + 0.05) << "uniform " << uniform;
}

}  // namespace
}  // namespace espalier

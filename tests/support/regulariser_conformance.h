#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "criteria/regularisers/regulariser.h"
#include "env/base/error.h"
#include "tests/support/calibrated_network.h"

namespace espalier {

/// A random network in double whose weights can be pulled.
class PulledNetwork {
 public:
  PulledNetwork(const Regulariser& regulariser, const Space& space, const ParameterStore& given)
      : store_(given.Clone()) {
    for (const std::string& name : store_.CanonicalNames())
      if (store_.Get(name).is_floating_point()) store_.Set(name, store_.Get(name).to(at::kDouble));
    store_.SetRequiresGrad(true);
    weights_.emplace(space, store_,
                     [&](const GroupView::Slice& slice) { return regulariser.Counts(slice); });
    memory_ = at::zeros({space.total_units()}, at::kDouble);
  }
  const UnitWeights& weights() const { return *weights_; }
  const ParameterStore& store() const { return store_; }
  Tensor& memory() { return memory_; }

 private:
  ParameterStore store_;
  std::optional<UnitWeights> weights_;
  Tensor memory_;
};

/// What every registered regulariser must do.
class RegulariserConformance : public testing::TestWithParam<std::string> {
 protected:
  std::unique_ptr<Regulariser> Make() const { return MakeRegulariser(GetParam()); }
  const EntryInfo& info() const { return Registry<Regulariser>::Global().Find(GetParam())->info; }
  /// GetParam() with every choice of its options.
  static std::vector<std::string> Texts() {
    std::vector<std::string> texts = {GetParam()};
    Registry<Regulariser>::Global().Find(GetParam())->describe([&](const Schema& schema) {
      for (const Field& field : schema.fields())
        if (std::holds_alternative<bool*>(field.target))
          for (const char* value : {"true", "false"})
            texts.push_back(Str(GetParam(), "(", field.name, "=", value, ")"));
    });
    return texts;
  }
};

TEST_P(RegulariserConformance, PullsByTheGradientOfFiniteDifferences) {
  constexpr double kStep = 1e-6;
  for (const std::string& text : Texts())
    for (uint64_t seed = 0; seed < 3; ++seed) {
      SCOPED_TRACE(Str(text, ", seed ", seed));
      const auto regulariser = MakeRegulariser(text);
      const CalibratedNetwork calibrated(seed);
      PulledNetwork pulled(*regulariser, calibrated.space(), calibrated.network().store);
      pulled.memory().uniform_();
      const Tensor strengths = regulariser->Strengths(
          pulled.weights(), regulariser->Sizes(pulled.weights()).detach(), pulled.memory());
      Penalty(*regulariser, pulled.weights(), pulled.memory()).backward();
      const at::NoGradGuard no_grad;
      const auto held = [&] {
        return regulariser->Sizes(pulled.weights()).dot(strengths).item<double>();
      };
      EXPECT_EQ(Penalty(*regulariser, pulled.weights(), pulled.memory()).item<double>(), held());
      for (const std::string& name : pulled.store().CanonicalNames()) {
        if (pulled.store().Kind(name) != StoreKind::kParameter) continue;
        const Tensor& weight = pulled.store().Get(name);
        const Tensor flat = weight.view(-1);
        const int64_t stride = std::max<int64_t>(1, flat.numel() / 8);
        for (int64_t i = 0; i < flat.numel(); i += stride) {
          const auto original = flat[i].item<double>();
          flat[i] = original + kStep;
          const double above = held();
          flat[i] = original - kStep;
          const double below = held();
          flat[i] = original;
          const double pull =
              weight.grad().defined() ? weight.grad().flatten()[i].item<double>() : 0;
          // Rounding of values of order 1e-1 over the step: 1e-10.
          EXPECT_NEAR(pull, (above - below) / (2 * kStep), 1e-9) << name << " " << i;
        }
      }
    }
}

TEST_P(RegulariserConformance, LeavesPinnedUnitsAndBiasesAlone) {
  const CalibratedNetwork calibrated(1);
  const Space space = BuildSpace(calibrated.network(), {.exclude = {"conv2"}});
  ASSERT_EQ(space.groups().size(), 1U);
  PulledNetwork pulled(*Make(), space, calibrated.network().store);
  Penalty(*Make(), pulled.weights(), pulled.memory()).backward();
  const auto pull = [&](const std::string& name) {
    const Tensor grad = pulled.store().Get(name).grad();
    return grad.defined() ? grad.abs().sum().item<double>() : 0.0;
  };
  // conv2's rows and what reads them are pinned; its columns belong to conv1's units.
  for (const char* name : {"bn2.weight", "fc.weight", "fc.bias", "bn1.bias", "bn2.bias"})
    EXPECT_EQ(pull(name), 0) << name;
  EXPECT_GT(pull("bn1.weight"), 0);
}

TEST_P(RegulariserConformance, FollowsUnitOrder) {
  for (const std::string& text : Texts())
    for (uint64_t seed = 0; seed < 20; ++seed) {
      SCOPED_TRACE(Str(text, ", seed ", seed));
      const auto regulariser = MakeRegulariser(text);
      const at::NoGradGuard no_grad;
      const CalibratedNetwork calibrated(seed);
      const auto look = [&](const ParameterStore& store) {
        PulledNetwork pulled(*regulariser, calibrated.space(), store);
        const Tensor sizes = regulariser->Sizes(pulled.weights());
        regulariser->Remember(pulled.weights(), sizes, pulled.memory());
        return at::stack({sizes, regulariser->Strengths(pulled.weights(), sizes, pulled.memory())});
      };
      const Tensor expected = look(calibrated.network().store);
      const int64_t units = calibrated.space().groups()[0].units;
      const auto order = Rng(seed, 0, "order").Permutation(units);
      const Tensor moved = look(calibrated.Permuted(0, order));
      const Tensor index = at::tensor(order, at::kLong);
      EXPECT_TRUE(at::allclose(moved.narrow(1, 0, units),
                               expected.narrow(1, 0, units).index_select(1, index), 1e-12, 0));
      EXPECT_TRUE(at::allclose(moved.slice(1, units), expected.slice(1, units), 1e-12, 0));
    }
}

TEST_P(RegulariserConformance, PullsNoUnitOfAGroupLessThanAStrongerOne) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(seed);
    const at::NoGradGuard no_grad;
    const CalibratedNetwork calibrated(seed);
    PulledNetwork pulled(*Make(), calibrated.space(), calibrated.network().store);
    const Tensor sizes = Make()->Sizes(pulled.weights());
    Make()->Remember(pulled.weights(), sizes, pulled.memory());
    const Tensor strengths = Make()->Strengths(pulled.weights(), sizes, pulled.memory());
    EXPECT_TRUE(strengths.gt(0).all().item<bool>());
    for (size_t g = 0; g < calibrated.space().groups().size(); ++g) {
      const int64_t first = calibrated.space().unit_offset(g);
      const int64_t count = calibrated.space().groups()[g].units;
      const Tensor by_size = strengths.narrow(0, first, count)
                                 .index_select(0, sizes.narrow(0, first, count).argsort());
      EXPECT_TRUE(by_size.diff().le(0).all().item<bool>()) << strengths;
    }
  }
}

TEST_P(RegulariserConformance, WeightsOfZeroAreLeftAtRest) {
  for (const std::string& text : Texts()) {
    SCOPED_TRACE(text);
    const auto regulariser = MakeRegulariser(text);
    const CalibratedNetwork calibrated(2);
    ParameterStore zeros = calibrated.network().store.Clone();
    for (const std::string& name : zeros.CanonicalNames())
      zeros.Set(name, at::zeros_like(zeros.Get(name)));
    PulledNetwork pulled(*regulariser, calibrated.space(), zeros);
    Penalty(*regulariser, pulled.weights(), pulled.memory()).backward();
    for (const std::string& name : pulled.store().CanonicalNames()) {
      const Tensor grad = pulled.store().Get(name).grad();
      EXPECT_FALSE(grad.defined() && grad.ne(0).any().item<bool>()) << name;
    }
    const at::NoGradGuard no_grad;
    regulariser->Remember(pulled.weights(), regulariser->Sizes(pulled.weights()), pulled.memory());
    EXPECT_TRUE(pulled.memory().isfinite().all().item<bool>());
  }
}

TEST_P(RegulariserConformance, SaysWhereItComesFrom) {
  EXPECT_FALSE(info().summary.empty());
  EXPECT_FALSE(info().source.empty());
}

}  // namespace espalier

#include "env/eval/masked_network.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "env/base/error.h"
#include "env/models/models.h"
#include "env/space/space.h"
#include "tests/env/space/random_network.h"
#include "tests/env/space/random_selection.h"

namespace espalier {
namespace {

Space SpaceOf(const std::string& model, const SpaceOptions& options = {}) {
  return BuildSpace(BuildModel(model, {.input_size = 32, .seed = 3}), options);
}

std::vector<Tensor> RandomInputs(const Network& network, int64_t batch) {
  std::vector<Tensor> inputs;
  for (const Tensor& sample : SampleInputs(network, batch))
    inputs.push_back(PrepareInput(at::randn(sample.sizes()), at::kFloat));
  return inputs;
}

/// The largest difference between outputs, by the largest value.
double Difference(const std::vector<Tensor>& found, const std::vector<Tensor>& expected) {
  double error = 0, largest = 1e-30;
  for (size_t i = 0; i < expected.size(); ++i) {
    if (expected[i].numel() == 0) continue;
    error = std::max(error, (found[i] - expected[i]).abs().max().item<double>());
    largest = std::max(largest, expected[i].abs().max().item<double>());
  }
  return error / largest;
}

TEST(MaskedNetworkProperty, ComputesWhatTheCutNetworkDoes) {
  at::manual_seed(5);
  const at::NoGradGuard no_grad;
  for (const char* model : {"resnet20", "densenet40", "googlenet_cifar", "mobilenet_v2"})
    for (const bool decouple : {false, true}) {
      const Space space = SpaceOf(model, {.decouple_residuals = decouple});
      const CandidateNetwork candidates(space);
      MaskedNetwork masked(candidates);
      const auto inputs = RandomInputs(space.network(), 3);
      for (uint64_t seed = 1; seed <= 3; ++seed) {
        SCOPED_TRACE(Str(model, ", decoupled ", decouple, ", seed ", seed));
        const Selection selection = seed == 3 ? KeepAll(space) : RandomSelection(space, seed);
        const Network cut = Cut(space.network(), MakePlan(space, selection));
        const Executor executor(cut.graph);
        EXPECT_LE(Difference(masked.Run(selection, inputs),
                             executor.Run(executor.Bind(cut.store), inputs)),
                  1e-5);
      }
    }
}

TEST(MaskedNetworkProperty, RandomNetworksComputeTheSameCutMaskedAndInOneGraph) {
  at::manual_seed(7);
  const at::NoGradGuard no_grad;
  int masked_nets = 0;
  for (uint64_t seed = 500; seed < 560; ++seed) {
    SCOPED_TRACE(seed);
    const Network network = RandomNetwork(seed);
    const Space space = BuildSpace(network, {.decouple_residuals = seed % 2 == 0});
    if (space.groups().empty()) continue;
    const CandidateNetwork candidates(space);
    const Selection selection = RandomSelection(space, seed);
    const Network cut = Cut(space.network(), MakePlan(space, selection));
    const auto inputs = RandomInputs(space.network(), 2);
    const Executor executor(cut.graph);
    const auto expected = executor.Run(executor.Bind(cut.store), inputs);
    const auto bound = candidates.Bind(selection);
    EXPECT_LE(Difference(candidates.executor().Run(bound.binding, inputs), expected), 1e-3);
    if (!space.norms().empty()) {
      EXPECT_THROW(MaskedNetwork{candidates}, Error);
      continue;
    }
    ++masked_nets;
    EXPECT_LE(Difference(MaskedNetwork(candidates).Run(selection, inputs), expected), 1e-3);
  }
  EXPECT_GE(masked_nets, 20);
}

TEST(MaskedNetworkUnit, OneRecordingServesCandidatesAndShapes) {
  at::manual_seed(6);
  const Space space = SpaceOf("resnet20");
  const CandidateNetwork candidates(space);
  MaskedNetwork masked(candidates);
  const Selection one = RandomHalf(space, 1), other = RandomHalf(space, 2);
  const auto three = RandomInputs(space.network(), 3), two = RandomInputs(space.network(), 2);
  const Tensor first = masked.Run(one, three).front().clone();
  EXPECT_FALSE(at::equal(masked.Run(other, three).front(), first));
  EXPECT_EQ(masked.Run(other, two).front().size(0), 2);
  EXPECT_TRUE(at::equal(masked.Run(one, three).front(), first));
}

TEST(MaskedNetworkUnit, RefusesWhatMasksCannotDo) {
  const Space depth = SpaceOf("resnet20", {.depth = true});
  const CandidateNetwork candidates(depth);
  try {
    MaskedNetwork{candidates};
    ADD_FAILURE() << "accepted branches that can go";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kConfig);
    EXPECT_NE(error.message().find("branches"), std::string::npos) << error.message();
  }
}

TEST(DeviceBackendUnit, ARecordingRunsOnWhatItsInputsHoldNow) {
  const Tensor input = at::ones({3});
  const auto recording = Record(at::kCPU, [&] { return std::vector<Tensor>{input * 2}; });
  recording->Replay();
  EXPECT_EQ(recording->results().front().sum().item<double>(), 6);
  input.fill_(5);
  recording->Replay();
  EXPECT_EQ(recording->results().front().sum().item<double>(), 30);
}

TEST(DeviceBackendUnit, AQueueHandsOnWhatItsWorkThrows) {
  EXPECT_THROW(OnOwnQueue(at::kCPU, [] { throw Error(ErrorKind::kData, "made-up"); }), Error);
}

}  // namespace
}  // namespace espalier

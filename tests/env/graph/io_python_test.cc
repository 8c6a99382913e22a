#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "env/base/files.h"
#include "env/graph/executor.h"
#include "env/graph/io.h"
#include "tests/env/graph/io_networks.h"
#include "tests/env/graph/io_testing.h"

namespace espalier {
namespace {

/// Runs tests/e2e/check_pt2.py; empty when it succeeded, else what it printed.
std::string RunCheck(const std::string& python, const TempFolder& folder, const std::string& args) {
  const std::string log = (folder / "check.log").string();
  const std::string command = Str(python, " tests/e2e/check_pt2.py ", args, " > ", log, " 2>&1");
  const int status = std::system(command.c_str());
  return status == 0 ? "" : Str("status ", status, "\n", ReadFile(log));
}

#define NEEDS_PYTHON()                                                   \
  const char* python = std::getenv("ESPALIER_PYTHON");                   \
  if (!python || !*python) GTEST_SKIP() << "ESPALIER_PYTHON is not set"; \
  const TempFolder folder

TEST(StateDictE2e, TorchLoadsItWithWeightsOnly) {
  NEEDS_PYTHON();
  ParameterStore store;
  store.Add("conv.weight", at::randn({4, 3, 3, 3}), StoreKind::kParameter);
  store.Add("odd", at::randn({5, 2}).t(), StoreKind::kBuffer);
  store.Add("half", at::randn({3}).to(at::kHalf), StoreKind::kParameter);
  store.Add("bfloat", at::randn({3}).to(at::kBFloat16), StoreKind::kParameter);
  store.Add("double", at::randn({3}, at::kDouble), StoreKind::kParameter);
  store.Add("flags", at::ones({3}, at::kBool), StoreKind::kBuffer);
  store.Add("bn.num_batches_tracked", at::tensor(-7, at::kLong), StoreKind::kBuffer);
  store.Add("none", at::empty({0, 2}), StoreKind::kBuffer);
  store.Tie("head.weight", "conv.weight");
  WriteStateDict(folder / "s.pt", store);
  SaveWeights(folder / "s.safetensors", store);
  EXPECT_EQ(RunCheck(python, folder,
                     Str("state_dict ", (folder / "s.pt").string(), " ",
                         (folder / "s.safetensors").string())),
            "");
  store.Set("conv.weight", at::zeros({4, 3, 3, 3}));
  SaveWeights(folder / "other.safetensors", store);  // the check itself must notice a difference
  EXPECT_NE(RunCheck(python, folder,
                     Str("state_dict ", (folder / "s.pt").string(), " ",
                         (folder / "other.safetensors").string())),
            "");
}

/// Writes the network and what it computes for two batch sizes, and has PyTorch compare.
std::string CheckProgram(const std::string& python, const TempFolder& folder,
                         const Network& network) {
  WritePt2(folder / "m.pt2", network);
  TensorFile expected;
  const at::NoGradGuard no_grad;
  const Executor executor(network.graph);
  for (const int64_t batch : {2, 5}) {
    std::vector<Tensor> inputs = SampleInputs(network, batch);
    for (Tensor& input : inputs)
      if (input.is_floating_point()) input.normal_();
    const auto outputs = executor.Run(executor.Bind(network.store), inputs);
    for (size_t i = 0; i < inputs.size(); ++i)
      expected.tensors.emplace_back(Str("batch", batch, ".in", i), inputs[i]);
    for (size_t i = 0; i < outputs.size(); ++i)
      expected.tensors.emplace_back(Str("batch", batch, ".out", i), outputs[i]);
  }
  WriteSafetensors(folder / "e.safetensors", expected);
  return RunCheck(
      python, folder,
      Str("program ", (folder / "m.pt2").string(), " ", (folder / "e.safetensors").string()));
}

TEST(Pt2E2e, TorchRunsUnflattensDifferentiatesAndReExportsABuiltNetwork) {
  NEEDS_PYTHON();
  EXPECT_EQ(CheckProgram(python, folder, SmallConvNet()), "");
}

TEST(Pt2E2e, TorchRunsANetworkWithTwoInputsListsConstantsAndTies) {
  NEEDS_PYTHON();
  EXPECT_EQ(CheckProgram(python, folder, ManyKindsNet()), "");
}

TEST(StateDictUnit, EqualContentsGiveEqualBytes) {
  const TempFolder folder;
  ParameterStore store;
  store.Add("w", at::ones({4}), StoreKind::kParameter);
  store.Add("constant", at::ones({4}), StoreKind::kConstant);
  WriteStateDict(folder / "a.pt", store);
  WriteStateDict(folder / "b.pt", store);
  EXPECT_EQ(ReadFile(folder / "a.pt"), ReadFile(folder / "b.pt"));
}

}  // namespace
}  // namespace espalier

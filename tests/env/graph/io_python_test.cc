#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "env/base/files.h"
#include "env/graph/executor.h"
#include "env/graph/io.h"
#include "tests/env/graph/io_networks.h"
#include "tests/env/graph/io_python.h"
#include "tests/env/graph/io_testing.h"

namespace espalier {
namespace {

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

TEST(Pt2E2e, TorchRunsUnflattensDifferentiatesAndReExportsABuiltNetwork) {
  NEEDS_PYTHON();
  EXPECT_EQ(CheckProgram(python, folder, SmallConvNet()), "");
}

TEST(Pt2E2e, TorchRunsANetworkWithTwoInputsListsConstantsAndTies) {
  NEEDS_PYTHON();
  EXPECT_EQ(CheckProgram(python, folder, ManyKindsNet()), "");
}

TEST(Pt2E2e, ForeignArchivesAreReadAndGivenBack) {
  NEEDS_PYTHON();
  const auto path = folder / "foreign.pt2", again = folder / "again.pt2";
  const auto expected_path = folder / "e.safetensors";
  ASSERT_EQ(RunCheck(python, folder, Str("export ", path.string(), " ", expected_path.string())),
            "");
  const Network net = ReadPt2(path);
  EXPECT_EQ(net.store.Canonical("head.weight"), net.store.Canonical("embed.weight"));
  EXPECT_EQ(net.extras.at("extra/notes.txt"), "carried");
  std::map<std::string, Tensor> expected;
  for (auto& [name, tensor] : ReadSafetensors(expected_path).tensors) expected[name] = tensor;
  const at::NoGradGuard no_grad;
  const Executor executor(net.graph);
  for (const std::string batch : {"batch2", "batch5"}) {
    const auto outputs = executor.Run(executor.Bind(net.store),
                                      {expected.at(batch + ".in0"), expected.at(batch + ".in1")});
    ASSERT_EQ(outputs.size(), 3u);
    for (size_t i = 0; i < outputs.size(); ++i)
      EXPECT_TRUE(at::allclose(outputs[i], expected.at(Str(batch, ".out", i)), 1e-5, 1e-6)) << i;
  }
  WritePt2(again, net);  // the nesting of the outputs survives: the script flattens both alike
  EXPECT_EQ(RunCheck(python, folder, Str("program ", again.string(), " ", expected_path.string())),
            "");
  EXPECT_EQ(ReadPt2(again).extras, net.extras);
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

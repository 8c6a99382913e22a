#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "env/graph/executor.h"
#include "env/graph/io.h"
#include "env/models/models.h"
#include "tests/env/graph/io_python.h"
#include "tests/env/graph/io_testing.h"

namespace espalier {
namespace {

/// ImageNet networks at a size that keeps the test short.
Network Build(const std::string& name) {
  const Network usual = BuildModel(name);
  if (usual.graph.inputs.at(0).sizes.at(2) <= 64) return usual;
  return BuildModel(name, {.input_size = 64});
}

TEST(ModelsPt2E2e, EveryBuiltInNetworkSurvivesARoundTrip) {
  for (const ModelInfo& info : BuiltinModels()) {
    const Network net = Build(info.name);
    if (net.store.ParameterCount() > 30'000'000) continue;  // half a gigabyte on disk
    const TempFolder folder;
    WritePt2(folder / (info.name + ".pt2"), net);
    const Network read = ReadPt2(folder / (info.name + ".pt2"));
    EXPECT_EQ(read.name, info.name);
    EXPECT_EQ(read.store.names(), net.store.names()) << info.name;
    EXPECT_EQ(read.WeightsHash(), net.WeightsHash()) << info.name;
    const Tensor x = SampleInputs(net, 3).front().normal_();
    EXPECT_TRUE(at::equal(Forward(read, x), Forward(net, x))) << info.name;
  }
}

TEST(ModelsPt2E2e, PyTorchRunsOneOfEachFamily) {
  const char* python = std::getenv("ESPALIER_PYTHON");
  if (!python || !*python) GTEST_SKIP() << "ESPALIER_PYTHON is not set";
  for (const std::string name : {"resnet20", "densenet40", "googlenet_cifar", "mobilenet_v2"}) {
    const TempFolder folder;
    EXPECT_EQ(CheckProgram(python, folder, Build(name)), "") << name;
  }
}

}  // namespace
}  // namespace espalier

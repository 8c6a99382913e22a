#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "env/graph/executor.h"
#include "env/graph/io.h"
#include "env/models/models.h"
#include "tests/env/graph/io_testing.h"

namespace espalier {
namespace {

namespace fs = std::filesystem;

std::string EnvironmentOr(const char* name, const std::string& otherwise) {
  const char* value = std::getenv(name);
  return value && *value ? value : otherwise;
}

fs::path SharedModels() { return EnvironmentOr("ESPALIER_SHARED_MODELS", "../shared/models"); }

at::Generator Seeded(uint64_t seed) { return at::make_generator<at::CPUGeneratorImpl>(seed); }

/// Statistics and affine values as different as those of a trained network, so that two swapped
/// batch norms or a forgotten one show.
void RandomiseNorms(Network& network) {
  auto generator = Seeded(11);
  for (const Op& op : network.graph.ops) {
    if (op.target() != "aten::batch_norm") continue;
    const auto stored = [&](const char* argument) {
      const auto id = static_cast<size_t>(op.ValueArg(argument));
      return network.store.Get(network.graph.values[id].target);
    };
    stored("weight").uniform_(0.5, 1.5, generator);
    stored("bias").normal_(0, 1, generator);
    stored("running_mean").normal_(0, 1, generator);
    stored("running_var").uniform_(0.5, 1.5, generator);
  }
}

void WriteCase(const TempFolder& folder, const std::string& label, const Network& network,
               const fs::path& weights, std::map<std::string, std::string> metadata) {
  std::vector<int64_t> sizes = network.graph.inputs.front().sizes;
  sizes[0] = 2;
  const Tensor input = at::empty(sizes).normal_(0, 1, Seeded(5));
  metadata["weights"] = weights.string();
  WriteSafetensors(folder / (label + ".io.safetensors"),
                   {{{"input", input}, {"output", Forward(network, input)}}, metadata});
}

/// Runs the checker over a folder of cases; its table goes to the test's output.
int CheckAgainstEager(const fs::path& folder) {
  const std::string python = EnvironmentOr("ESPALIER_PYTHON", ".venv/bin/python");
  const std::string command = python + " tests/e2e/check_models.py '" + folder.string() + "'";
  return std::system(command.c_str());
}

bool PythonHasTorch() {
  const std::string python = EnvironmentOr("ESPALIER_PYTHON", ".venv/bin/python");
  return std::system((python + " -c 'import torch' 2>/dev/null").c_str()) == 0;
}

TEST(EagerTwinE2e, EveryBuiltinNetworkEqualsAnEagerModelOfTheSameParameterNames) {
  if (!PythonHasTorch()) GTEST_SKIP() << "no python with torch (ESPALIER_PYTHON)";
  const TempFolder folder;
  const auto add = [&](const ModelInfo& info, const std::string& label, ModelOptions options) {
    options.classes = 7;
    options.input_size = std::min<int64_t>(info.input_size, 64);
    Network network = BuildModel(info.name, options);
    RandomiseNorms(network);
    const std::string weights = label + ".safetensors";
    SaveWeights(folder / weights, network.store);
    WriteCase(folder, label, network, weights,
              {{"model", info.name}, {"classes", "7"}, {"shortcut", options.shortcut}});
  };
  for (const ModelInfo& info : BuiltinModels()) {
    add(info, info.name, {});
    if (info.shortcut_choice) add(info, info.name + "_projection", {.shortcut = "projection"});
  }
  EXPECT_EQ(CheckAgainstEager(folder / ""), 0);
}

TEST(EagerTwinE2e, PublishedWeightsGiveTheOutputsOfAnEagerModel) {
  if (!fs::exists(SharedModels()))
    GTEST_SKIP() << "no published weights at " << SharedModels() << " (ESPALIER_SHARED_MODELS)";
  if (!PythonHasTorch()) GTEST_SKIP() << "no python with torch (ESPALIER_PYTHON)";
  const TempFolder folder;
  for (const std::string name : {"resnet20", "resnet32", "resnet44", "resnet56"}) {
    const fs::path weights = fs::absolute(SharedModels() / (name + "_cifar10.safetensors"));
    Network network = BuildModel(name);
    LoadWeights(weights, network.store);
    WriteCase(folder, name, network, weights,
              {{"model", name}, {"classes", "10"}, {"shortcut", "A"}});
  }
  EXPECT_EQ(CheckAgainstEager(folder / ""), 0);
}

}  // namespace
}  // namespace espalier

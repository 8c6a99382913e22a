#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "env/base/files.h"
#include "env/base/rng.h"
#include "env/graph/executor.h"
#include "env/graph/io.h"
#include "env/models/models.h"
#include "env/space/plan.h"
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

/// A network, its answer to a random input, and where its (or its uncut parent's) weights are.
void WriteCase(const TempFolder& folder, const std::string& label, const Network& network,
               const fs::path& weights, std::map<std::string, std::string> metadata) {
  std::vector<int64_t> sizes = network.graph.inputs.front().sizes;
  sizes[0] = 2;
  const Tensor input = at::empty(sizes).normal_(0, 1, Seeded(5));
  metadata["weights"] = weights.string();
  WriteSafetensors(folder / (label + ".io.safetensors"),
                   {{{"input", input}, {"output", Forward(network, input)}}, metadata});
}

std::string Python() { return EnvironmentOr("ESPALIER_PYTHON", ".venv/bin/python"); }

/// Runs a checker over a folder of cases; its table goes to the test's output.
int Check(const std::string& script, const fs::path& folder) {
  return std::system((Python() + " tests/e2e/" + script + " '" + folder.string() + "'").c_str());
}

bool PythonHasTorch() {
  return std::system((Python() + " -c 'import torch' 2>/dev/null").c_str()) == 0;
}

TEST(EagerTwinE2e, EveryBuiltinNetworkAndItsArchiveEqualAnEagerModelOfTheSameNames) {
  if (!PythonHasTorch()) GTEST_SKIP() << "no python with torch (ESPALIER_PYTHON)";
  const TempFolder folder;
  const auto add = [&](const ModelInfo& info, const std::string& label, ModelOptions options) {
    options.classes = 7;
    options.input_size = std::min<int64_t>(info.input_size, 64);
    Network network = BuildModel(info.name, options);
    RandomiseNorms(network);
    const std::string weights = label + ".safetensors";
    SaveWeights(folder / weights, network.store);
    WritePt2(folder / (label + ".pt2"), network);
    WriteCase(folder, label, network, weights,
              {{"model", info.name},
               {"classes", "7"},
               {"shortcut", options.shortcut},
               {"archive", label + ".pt2"}});
  };
  for (const ModelInfo& info : BuiltinModels()) {
    add(info, info.name, {});
    if (info.shortcut_choice) add(info, info.name + "_projection", {.shortcut = "projection"});
  }
  EXPECT_EQ(Check("check_models.py", folder / ""), 0);
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
  EXPECT_EQ(Check("check_models.py", folder / ""), 0);
}

TEST(EagerTwinE2e, PlansCutEagerModelsToTheSameNetwork) {
  if (!PythonHasTorch()) GTEST_SKIP() << "no python with torch (ESPALIER_PYTHON)";
  const TempFolder folder;
  // Concatenations, residual trunks, depthwise convolutions, flattened maps. Option-A shortcuts are
  // left out: their widths are written in the eager model's code, not in an attribute.
  const std::vector<std::string> names = {"resnet20",        "vgg16_bn_cifar", "densenet40",
                                          "googlenet_cifar", "resnet50",       "mobilenet_v2"};
  for (const std::string& name : names) {
    const ModelInfo& info = FindModel(name);
    ModelOptions options{.classes = 7, .input_size = std::min<int64_t>(info.input_size, 64)};
    if (info.shortcut_choice) options.shortcut = "projection";
    Network network = BuildModel(name, options);
    RandomiseNorms(network);
    const Space space = BuildSpace(network);
    Rng rng(3);
    std::vector<std::vector<double>> scores;
    std::vector<int64_t> counts;
    for (const Group& group : space.groups()) {
      scores.emplace_back();
      for (int64_t unit = 0; unit < group.units; ++unit) scores.back().push_back(rng.Uniform());
      counts.push_back(group.units / 2);
    }
    const Plan plan = MakePlan(space, SelectTop(space, scores, counts));
    SaveWeights(folder / (name + ".safetensors"), network.store);
    WriteFileAtomic(folder / (name + ".plan.json"), ToJson(plan).dump());
    WriteCase(folder, name, Cut(network, plan), name + ".safetensors",
              {{"model", name}, {"classes", "7"}, {"shortcut", options.shortcut}});
  }
  EXPECT_EQ(Check("check_plan.py", folder / ""), 0);
}

}  // namespace
}  // namespace espalier

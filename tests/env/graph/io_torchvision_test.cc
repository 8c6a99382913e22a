#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "env/base/files.h"
#include "env/graph/executor.h"
#include "env/graph/io.h"
#include "tests/env/graph/io_python.h"
#include "tests/env/graph/io_testing.h"

namespace espalier {
namespace {

/// Archives written by torch.export from torchvision's networks, with an input and its output.
/// They are not part of the repository: $ESPALIER_SHARED_MODELS or ../shared/models.
std::filesystem::path ModelsFolder() {
  const char* folder = std::getenv("ESPALIER_SHARED_MODELS");
  return folder && *folder ? folder : "../shared/models";
}

Tensor ReadFloats(const std::filesystem::path& path, const std::vector<int64_t>& sizes) {
  const std::string bytes = ReadFile(path);
  Tensor tensor = at::empty(sizes);
  if (bytes.size() != tensor.nbytes())
    throw Error(ErrorKind::kData, Str(path.string(), " has ", bytes.size(), " bytes"));
  std::memcpy(tensor.mutable_data_ptr(), bytes.data(), bytes.size());
  return tensor;
}

double RelativeError(const Tensor& got, const Tensor& expected) {
  return ((got - expected).abs().max() / expected.abs().max()).item<double>();
}

class TorchvisionE2e : public testing::TestWithParam<const char*> {};

std::filesystem::path Unpack(const TempFolder& folder, const std::string& name) {
  const auto path = folder / (name + ".pt2");
  const auto packed = ModelsFolder() / (name + ".pt2.xz");
  const std::string unpack = Str("xz -dc '", packed.string(), "' > '", path.string(), "'");
  if (std::system(unpack.c_str()) != 0) throw Error(ErrorKind::kData, unpack);
  return path;
}

TEST_P(TorchvisionE2e, ComputesTheRecordedOutputAndSurvivesARoundTrip) {
  const std::string name = GetParam();
  if (!std::filesystem::exists(ModelsFolder() / (name + ".pt2.xz")))
    GTEST_SKIP() << name << ".pt2.xz is not in " << ModelsFolder();
  const TempFolder folder;
  const auto path = Unpack(folder, name);
  const auto shapes = nlohmann::json::parse(ReadFile(ModelsFolder() / (name + ".json")));
  const Tensor x = ReadFloats(ModelsFolder() / (name + ".x.f32"), shapes["x"]);
  const Tensor y = ReadFloats(ModelsFolder() / (name + ".y.f32"), shapes["y"]);

  const Network net = ReadPt2(path);
  EXPECT_EQ(net.store.ParameterCount(), shapes["params"].get<int64_t>());
  const Tensor output = Forward(net, x);
  EXPECT_LE(RelativeError(output, y), 1e-4);
  EXPECT_TRUE(net.graph.inputs.at(0).dynamic_batch);
  EXPECT_LE(RelativeError(Forward(net, x.narrow(0, 0, 1)), y.narrow(0, 0, 1)), 1e-4);

  if (net.store.ParameterCount() > 30'000'000) return;  // writing the heavy ones takes long
  const auto again = folder / (name + "_again.pt2");
  WritePt2(again, net);
  const Network read = ReadPt2(again);
  EXPECT_EQ(read.WeightsHash(), net.WeightsHash());
  EXPECT_TRUE(at::equal(Forward(read, x), output));
}

// Windows and shuffles: sizes that follow the batch, constants, lists, views written in place.
TEST(TorchvisionPythonE2e, TorchRunsRewrittenArchives) {
  const char* python = std::getenv("ESPALIER_PYTHON");
  if (!python || !*python) GTEST_SKIP() << "ESPALIER_PYTHON is not set";
  for (const std::string name : {"swin_t", "shufflenet_v2_x1_0"}) {
    if (!std::filesystem::exists(ModelsFolder() / (name + ".pt2.xz")))
      GTEST_SKIP() << name << ".pt2.xz is not in " << ModelsFolder();
    const TempFolder folder;
    EXPECT_EQ(CheckProgram(python, folder, ReadPt2(Unpack(folder, name))), "") << name;
  }
}

INSTANTIATE_TEST_SUITE_P(All, TorchvisionE2e,
                         testing::Values("convnext_tiny", "deeplabv3_mobilenet_v3_large",
                                         "densenet121", "efficientnet_b0", "googlenet",
                                         "mobilenet_v2", "mobilenet_v3_small", "regnet_y_400mf",
                                         "resnet18", "resnet50", "shufflenet_v2_x1_0",
                                         "squeezenet1_1", "swin_t", "vgg16_bn", "vit_b_32"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace espalier

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "env/base/error.h"
#include "env/graph/io.h"
#include "env/space/certificate.h"
#include "env/space/plan.h"
#include "tests/env/space/random_selection.h"
#include "tests/support/temp_folder.h"

// Exported torchvision networks: the sets of coupled layers and the units that DepGraph's counts
// demand, and a certified cut of half of every group.

namespace espalier {
namespace {

std::filesystem::path ModelsFolder() {
  const char* folder = std::getenv("ESPALIER_SHARED_MODELS");
  return folder && *folder ? folder : "../shared/models";
}

struct Expected {
  const char* name;
  int64_t layer_sets;  ///< 0: no reference count
  int64_t units;
};

class TorchvisionSpaceGolden : public testing::TestWithParam<Expected> {};

TEST_P(TorchvisionSpaceGolden, HasTheReferenceCountsAndIsCutExactly) {
  const Expected& expected = GetParam();
  const auto packed = ModelsFolder() / Str(expected.name, ".pt2.xz");
  if (!std::filesystem::exists(packed)) GTEST_SKIP() << packed << " is not there";
  const TempFolder folder;
  const auto path = folder.path() / "model.pt2";
  const std::string unpack = Str("xz -dc '", packed.string(), "' > '", path.string(), "'");
  ASSERT_EQ(std::system(unpack.c_str()), 0) << unpack;
  const Space space = BuildSpace(ReadPt2(path));
  if (expected.layer_sets > 0) {
    EXPECT_EQ(space.layer_sets(), expected.layer_sets);
    EXPECT_EQ(space.total_units(), expected.units);
  }
  for (const Pin& pin : space.pins()) EXPECT_EQ(pin.reason, "network output") << pin.parameter;
  const Selection selection = RandomHalf(space, 1);
  const Plan plan = MakePlan(space, selection);
  const Certificate certificate = Certify(space, selection, plan, Cut(space.network(), plan), 1);
  EXPECT_TRUE(certificate.passed) << certificate.failure << " rel " << certificate.max_rel_error
                                  << " f64 " << certificate.max_rel_error_f64;
}

INSTANTIATE_TEST_SUITE_P(
    All, TorchvisionSpaceGolden,
    testing::Values(Expected{"resnet18", 12, 2880}, Expected{"resnet50", 37, 11456},
                    Expected{"mobilenet_v2", 25, 9128}, Expected{"efficientnet_b0", 40, 11404},
                    Expected{"regnet_y_400mf", 53, 10288}, Expected{"vgg16_bn", 15, 12416},
                    Expected{"googlenet", 57, 7280}, Expected{"densenet121", 120, 10240},
                    Expected{"convnext_tiny", 22, 27936}, Expected{"vit_b_32", 25, 46848},
                    Expected{"shufflenet_v2_x1_0", 37, 5630}, Expected{"swin_t", 28, 27936},
                    Expected{"squeezenet1_1", 0, 0}, Expected{"mobilenet_v3_small", 0, 0},
                    Expected{"deeplabv3_mobilenet_v3_large", 0, 0}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace espalier

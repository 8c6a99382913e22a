#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "env/base/error.h"
#include "env/graph/executor.h"
#include "env/graph/io.h"
#include "env/models/models.h"
#include "tests/env/graph/io_testing.h"

namespace espalier {
namespace {

namespace fs = std::filesystem;

TEST(LoadModelUnit, NameWithWeightsTakesClassesAndShortcutFromTheFile) {
  const TempFolder folder;
  const fs::path weights = folder / "mine.safetensors";
  const Network saved = BuildModel("resnet20", {.classes = 3, .shortcut = "projection", .seed = 9});
  SaveWeights(weights, saved.store);
  const Network loaded = LoadModel("resnet20:" + weights.string());
  EXPECT_EQ(loaded.WeightsHash(), saved.WeightsHash());
  EXPECT_TRUE(loaded.store.Has("layer2.0.shortcut.0.weight"));
}

TEST(LoadModelUnit, NameAloneIsTheSeededNetwork) {
  EXPECT_EQ(LoadModel("resnet20", {.seed = 4}).WeightsHash(),
            BuildModel("resnet20", {.seed = 4}).WeightsHash());
}

TEST(LoadModelUnit, Pt2FileGivesTheNetworkThatWasWritten) {
  const TempFolder folder;
  const Network written = BuildModel("resnet20", {.seed = 2});
  WritePt2(folder / "net.pt2", written);
  const Network read = LoadModel((folder / "net.pt2").string());
  const Tensor input =
      at::empty({3, 3, 32, 32}).normal_(0, 1, at::make_generator<at::CPUGeneratorImpl>(1));
  EXPECT_TRUE(at::equal(Forward(read, input), Forward(written, input)));
  EXPECT_EQ(read.store.ParameterCount(), written.store.ParameterCount());
}

TEST(LoadModelUnit, WrongNamesFilesAndWeightsAreModelErrors) {
  const TempFolder folder;
  EXPECT_NE(ModelErrorOf([] { LoadModel("resnet57"); }).find("resnet56"), std::string::npos);
  EXPECT_NE(ModelErrorOf([] { LoadModel("resnet57:x.safetensors"); }).find("resnet56"),
            std::string::npos);
  EXPECT_NE(ModelErrorOf([] { LoadModel("absent.pt2"); }).find("absent.pt2"), std::string::npos);
  EXPECT_NE(ModelErrorOf([] { LoadModel("resnet20:absent.safetensors"); }).find("absent"),
            std::string::npos);
  const fs::path weights = folder / "resnet32.safetensors";
  SaveWeights(weights, BuildModel("resnet32").store);
  const std::string text = ModelErrorOf([&] { LoadModel("resnet20:" + weights.string()); });
  EXPECT_NE(text.find("another network"), std::string::npos) << text;
}

}  // namespace
}  // namespace espalier

#include "experiments/settings.h"

#include <gtest/gtest.h>

#include "env/base/error.h"

namespace espalier {
namespace {

TEST(SettingsUnit, ReadsBackWhatDumpTomlWrites) {
  RunSettings settings;
  settings.name = "a  # b";
  const auto read = SettingsOf(DumpToml("run", Describe(settings), {}));
  EXPECT_EQ(read.at("run.seed"), "1");
  EXPECT_EQ(read.at("run.name"), "\"a  # b\"");
  EXPECT_EQ(read.size(), Describe(settings).fields().size());
}

TEST(SettingsUnit, OriginsDoNotMatter) {
  EXPECT_EQ(SettingsOf("[a]\nx = 1  # f.toml:3\n"), SettingsOf("[a]\nx = 1  # --set\n"));
  EXPECT_NE(SettingsOf("[a]\nx = 1  # f.toml:3\n"), SettingsOf("[b]\nx = 1  # f.toml:3\n"));
}

TEST(SettingsUnit, FolderIsNamedAfterTheConfigUnlessSaid) {
  RunSettings settings;
  EXPECT_EQ(RunFolderPath(settings, "x/quick.toml", ""), "runs/quick");
  settings.name = "other";
  EXPECT_EQ(RunFolderPath(settings, "x/quick.toml", ""), "runs/other");
  EXPECT_EQ(RunFolderPath(settings, "x/quick.toml", "/tmp/here"), "/tmp/here");
}

TEST(ModelSourceUnit, ReadsTheModelWord) {
  EXPECT_EQ(ParseModelWord("resnet20").name, "resnet20");
  EXPECT_EQ(ParseModelWord("resnet20:a/b.safetensors").weights, "a/b.safetensors");
  EXPECT_EQ(ParseModelWord("a/b.pt2").file, "a/b.pt2");
  EXPECT_THROW(ParseModelWord(""), Error);
}

TEST(ModelSourceUnit, WeightsNormaliseUnlessTheConfigSaysOtherwise) {
  ModelSource source;
  source.mean = {0.485, 0.456, 0.406};
  source.std = {0.229, 0.224, 0.225};
  DataConfig data;
  SettleNormalisation(source, data);
  EXPECT_EQ(data.mean, source.mean);
  data.mean = data.std = {0.5, 0.5, 0.5};
  SettleNormalisation(source, data);
  EXPECT_EQ(data.mean[0], 0.5);
}

TEST(ModelSourceUnit, UnknownDevicesAreConfigErrors) {
  EXPECT_EQ(ParseDevice("cpu"), at::Device(at::kCPU));
  try {
    ParseDevice("gpu");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kConfig);
  }
}

}  // namespace
}  // namespace espalier

#include "experiments/run_folder.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "env/base/error.h"
#include "env/base/files.h"
#include "tests/support/temp_folder.h"

namespace espalier {
namespace {

constexpr const char* kConfig = "[run]\nseed = 1  # a.toml:2\nout = \"runs\"  # default\n";

std::string ErrorOf(const std::filesystem::path& path, const std::string& config) {
  try {
    RunFolder folder(path, config, "line");
  } catch (const Error& error) {
    return error.message() + " | " + error.hint();
  }
  return "";
}

TEST(RunFolderUnit, SameConfigResumesWhereverItStands) {
  const TempFolder temp;
  {
    RunFolder folder(temp / "run", kConfig, "line");
    EXPECT_FALSE(folder.resumed());
    EXPECT_FALSE(folder.Finished("search"));
    folder.Finish("search", {{"kept", {1, 2}}});
  }
  RunFolder folder(temp / "run", "[run]\nseed = 1  # --set\nout = \"elsewhere\"  # b\n", "line");
  EXPECT_TRUE(folder.resumed());
  EXPECT_EQ(folder.Finished("search")->at("kept").at(1), 2);
}

TEST(RunFolderUnit, AnotherConfigIsRefusedWithTheDifference) {
  const TempFolder temp;
  { RunFolder folder(temp / "run", kConfig, "line"); }
  const auto error =
      ErrorOf(temp / "run", "[run]\nseed = 2  # a.toml:2\nout = \"runs\"  # default\n");
  EXPECT_NE(error.find("run.seed: the folder has 1, this line says 2"), std::string::npos) << error;
  EXPECT_NE(error.find("--out"), std::string::npos);
}

TEST(RunFolderUnit, AFileIsTheSameHoweverItIsWritten) {
  const TempFolder temp;
  WriteFileAtomic(temp / "a/weights", "1");
  WriteFileAtomic(temp / "b/weights", "1");
  const auto config = [&](const std::string& path) {
    return "[model]\nweights = \"" + (temp / path).string() + "\"  # --set\n";
  };
  { RunFolder folder(temp / "run", config("a/weights"), "line"); }
  EXPECT_EQ(ErrorOf(temp / "run", config("b/../a/weights")), "");
  EXPECT_NE(ErrorOf(temp / "run", config("b/weights")), "");
  EXPECT_NE(ErrorOf(temp / "run", config("a/gone")), "");
}

TEST(RunFolderUnit, AKeyThatCameLaterMattersOnlyWhereSomebodySetsIt) {
  const TempFolder temp;
  { RunFolder folder(temp / "run", kConfig, "line"); }
  const std::string old = kConfig;
  { RunFolder folder(temp / "run", old + "[latency]\nbatch = 1  # default\n", "line"); }
  const auto error = ErrorOf(temp / "run", old + "[latency]\nbatch = 8  # a.toml:9\n");
  EXPECT_NE(error.find("latency.batch: the folder has absent, this line says 8"), std::string::npos)
      << error;
}

TEST(RunFolderUnit, FoldersOfOthersAndBusyFoldersAreRefused) {
  const TempFolder temp;
  WriteFileAtomic(temp / "mine/thesis.tex", "precious");
  EXPECT_NE(ErrorOf(temp / "mine", kConfig).find("is not a run"), std::string::npos);
  RunFolder folder(temp / "run", kConfig, "line");
  EXPECT_NE(ErrorOf(temp / "run", kConfig).find("another process"), std::string::npos);
}

TEST(RunFolderUnit, ChangedInputsAreRefused) {
  const TempFolder temp;
  RunFolder folder(temp / "run", kConfig, "line");
  folder.Manifest(nlohmann::ordered_json::object(), {{"weights_sha256", "aa"}});
  folder.Manifest(nlohmann::ordered_json::object(), {{"weights_sha256", "aa"}});
  try {
    folder.Manifest(nlohmann::ordered_json::object(), {{"weights_sha256", "bb"}});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kConfig);
    EXPECT_NE(error.message().find("weights_sha256"), std::string::npos);
  }
}

TEST(RunFolderUnit, DamagedMarkerIsAnErrorThatNamesTheFile) {
  const TempFolder temp;
  RunFolder folder(temp / "run", kConfig, "line");
  WriteFileAtomic(temp / "run/stages/search.json", "{\"kept\": [1,");
  try {
    folder.Finished("search");
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(error.message().find("search.json"), std::string::npos);
  }
}

}  // namespace
}  // namespace espalier

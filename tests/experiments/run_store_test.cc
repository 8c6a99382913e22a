#include "experiments/run_store.h"

#include <gtest/gtest.h>

#include "env/base/error.h"
#include "env/base/files.h"
#include "tests/support/temp_folder.h"

namespace espalier {
namespace {

TEST(RunStoreUnit, ReportingAStepAgainReplacesIt) {
  const TempFolder folder;
  {
    RunStore store(folder / "run.db");
    store.SetMetric("search", 2, "loss", 5);
    store.SetMetric("search", 1, "loss", 3);
    store.SetMetric("finetune", 1, "loss", 9);
  }
  RunStore store(folder / "run.db");
  store.SetMetric("search", 2, "loss", 4);
  const auto curves = store.Curves("search");
  ASSERT_EQ(curves.size(), 1u);
  EXPECT_EQ(curves[0].name, "loss");
  EXPECT_EQ(curves[0].points, (std::vector<std::pair<int64_t, double>>{{1, 3.0}, {2, 4.0}}));
}

TEST(RunStoreUnit, KeepsTrials) {
  const TempFolder folder;
  RunStore store(folder / "run.db");
  store.SetTrial({.name = "a", .status = "complete", .kept_json = "[1,2]", .macs = 10});
  store.SetTrial({.name = "a", .status = "complete", .kept_json = "[1,3]", .macs = 11});
  const auto trials = store.Trials();
  ASSERT_EQ(trials.size(), 1u);
  EXPECT_EQ(trials[0].kept_json, "[1,3]");
  EXPECT_EQ(trials[0].macs, 11);
}

TEST(RunStoreUnit, DamagedDatabaseIsAnErrorThatNamesTheFile) {
  const TempFolder folder;
  WriteFileAtomic(folder / "run.db", std::string(4096, 'x'));
  try {
    RunStore store(folder / "run.db");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kIo);
    EXPECT_NE(error.message().find("run.db"), std::string::npos);
  }
}

}  // namespace
}  // namespace espalier

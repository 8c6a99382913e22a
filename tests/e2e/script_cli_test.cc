// TorchScript files through the real executable.

#include <gtest/gtest.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "env/base/error.h"
#include "tests/e2e/cli_testing.h"
#include "tests/support/temp_folder.h"

namespace espalier {
namespace {

TEST(ScriptCliE2e, InspectsPrunesAndVerifiesATracedModel) {
  if (!std::getenv("ESPALIER_PYTHON")) GTEST_SKIP() << "ESPALIER_PYTHON is not set";
  const TempFolder temp;
  ASSERT_EQ(RunPython({"tests/e2e/check_script.py", (temp / "").string()}), "");
  const std::string traced = (temp / "residual.traced.pt").string();
  const auto inspected = RunEspalier({"inspect", traced, "--input-shape", "1x3x16x16", "--json"});
  ASSERT_EQ(inspected.exit_code, 0) << inspected.err;
  const auto twin = RunEspalier({"inspect", (temp / "residual.pt2").string(), "--json"});
  ASSERT_EQ(twin.exit_code, 0) << twin.err;
  EXPECT_EQ(inspected.Json()["groups"], twin.Json()["groups"]);
  EXPECT_FALSE(twin.Json()["groups"].empty());
  EXPECT_EQ(inspected.Json()["cost"], twin.Json()["cost"]);

  const auto pruned = RunEspalier({"prune", traced, "--input-shape", "1x3x16x16", "--macs", "0.5",
                                   "--out", (temp / "cut").string(), "--json"});
  ASSERT_EQ(pruned.exit_code, 0) << pruned.err;
  EXPECT_TRUE(pruned.Json()["certificate"]["passed"].get<bool>());
  const auto verified = RunEspalier({"verify", (temp / "cut").string()});
  EXPECT_EQ(verified.exit_code, 0) << verified.err;
  EXPECT_EQ(RunPython({"-c",
                       "import sys, torch\n"
                       "program = torch.export.load(sys.argv[1] + '/cut/model.pt2')\n"
                       "whole = torch.jit.load(sys.argv[1] + '/residual.traced.pt')\n"
                       "for batch in (1, 3):\n"
                       "    out = program.module()(torch.randn(batch, 3, 16, 16))\n"
                       "    assert out.shape == (batch, 5), out.shape\n"
                       "count = lambda m: sum(p.numel() for p in m.parameters())\n"
                       "assert count(program) < 0.7 * count(whole)\n",
                       (temp / "").string()}),
            "");

  const auto shapeless = RunEspalier({"inspect", traced});
  EXPECT_EQ(shapeless.exit_code, 3);
  EXPECT_NE(shapeless.err.find("--input-shape 1x3x224x224"), std::string::npos) << shapeless.err;
  const auto misshapen = RunEspalier({"inspect", traced, "--input-shape", "1x3x16:flaot32"});
  EXPECT_EQ(misshapen.exit_code, 2);
  EXPECT_NE(misshapen.err.find("float32"), std::string::npos) << misshapen.err;
  const auto by_example = RunEspalier({"inspect", (temp / "outputs.scripted.pt").string(),
                                       "--input-shape", "2x8,2x8:float32", "--json"});
  EXPECT_EQ(by_example.exit_code, 0) << by_example.err;
  const auto checkpoint = RunEspalier({"inspect", (temp / "state_dict.pt").string()});
  EXPECT_EQ(checkpoint.exit_code, 3);
  EXPECT_NE(checkpoint.err.find("holds no network"), std::string::npos) << checkpoint.err;
}

}  // namespace
}  // namespace espalier

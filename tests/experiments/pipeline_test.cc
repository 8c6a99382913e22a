#include "experiments/pipeline.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "env/base/files.h"
#include "env/base/log.h"
#include "env/graph/builder.h"
#include "env/graph/io.h"
#include "tests/support/temp_folder.h"

namespace espalier {
namespace {

namespace fs = std::filesystem;
using Ints = std::vector<int64_t>;
constexpr int64_t kWidth = 16, kHeads = 4, kDim = 6, kLength = 5;

ValueId Heads(Builder& b, const std::string& layer, ValueId x) {
  const ValueId wide = b.Linear(layer, x, kWidth, kHeads * kDim);
  const ValueId parts =
      b.Call("aten::reshape", "",
             {{"self", wide}, {"shape", c10::IValue(Ints{-1, kLength, kHeads, kDim})}});
  return b.Call("aten::transpose", "int",
                {{"self", parts}, {"dim0", c10::IValue(1)}, {"dim1", c10::IValue(2)}});
}

/// x + attention(x), then f(x) + x in place, as residual networks write it: [batch, 5, 8] ->
/// [batch, 3].
Network Transformer() {
  Builder b("transformer", 5);
  ValueId x = b.Linear("stem", b.Input("x", {2, kLength, 8}), 8, kWidth);
  const ValueId q = Heads(b, "attn.q", x), k = Heads(b, "attn.k", x), v = Heads(b, "attn.v", x);
  ValueId y =
      b.Call("aten::scaled_dot_product_attention", "", {{"query", q}, {"key", k}, {"value", v}});
  y = b.Call("aten::transpose", "int",
             {{"self", y}, {"dim0", c10::IValue(1)}, {"dim1", c10::IValue(2)}});
  y = b.Call("aten::reshape", "",
             {{"self", y}, {"shape", c10::IValue(Ints{-1, kLength, kHeads * kDim})}});
  x = b.Add(x, b.Linear("attn.proj", y, kHeads * kDim, kWidth));
  for (const std::string block : {"mlp1", "mlp2"}) {
    y = b.Linear(block + ".fc2", b.Relu(b.Linear(block + ".fc1", x, kWidth, 32)), 32, kWidth);
    x = b.Call("aten::add_", "Tensor", {{"self", y}, {"other", x}});
  }
  x = b.Call("aten::mean", "dim", {{"self", b.Relu(x)}, {"dim", c10::IValue(Ints{1})}});
  return b.Finish({b.Linear("head", x, kWidth, 3)});
}

/// A finished run of a strategy that trains the weights it cuts, in a folder of its own.
class TrainedRun {
 public:
  TrainedRun(const std::string& space, double macs) {
    SetQuiet(true);
    WritePt2(folder_ / "model.pt2", Transformer());
    fs::create_directories(folder_ / "inputs");
    at::manual_seed(1);
    WriteSafetensors(folder_ / "inputs/a.safetensors",
                     {.tensors = {{"inputs.x", at::randn({64, kLength, 8})}}, .metadata = {}});
    WriteFileAtomic(
        folder_ / "run.toml",
        Str("[model]\nfile = \"model.pt2\"\n[data]\nname = \"tensors\"\nroot = \"",
            (folder_ / "inputs").string(), "\"\n[budget]\nmacs = ", macs, "\n[space]\n", space,
            "[strategy]\nname = \"ranking\"\ncriterion = \"l2_norm\"\nbatches = 1\n"
            "batch_size = 16\ncompensate = true\n[run]\nseed = 1\ndevice = \"cpu\"\n"));
    const RunConfig config = LoadRunConfig(folder_ / "run.toml", {});
    Pipeline pipeline(config, folder_ / "run");
    RunFolder run(folder_ / "run", config.resolved_toml, "line");
    result = pipeline.Run(run);
    search = ReadJson(folder_ / "run/stages/search.json");
    plan = ReadJson(folder_ / "run/best/plan.json");
  }

  nlohmann::ordered_json result, search, plan;

 private:
  const TempFolder folder_;
};

class PipelineE2e : public testing::TestWithParam<std::tuple<const char*, double>> {};

TEST_P(PipelineE2e, TrainedWeightsAreCertifiedInTheSpaceTheyWereTrainedFor) {
  const auto [space, macs] = GetParam();
  const TrainedRun run(space, macs);
  ASSERT_TRUE(run.search["trained"]);
  EXPECT_FALSE(run.search["info"]["compensated"].empty());
  EXPECT_TRUE(run.result["certificate"]["passed"]);
  EXPECT_LE(run.result["cut"]["macs"], macs * run.result["base"]["macs"].get<double>());
  const bool depth = std::string(space).find("depth") != std::string::npos;
  EXPECT_EQ(depth, run.plan.contains("branches")) << "a branch goes where it may";
  for (const auto& group : run.plan["groups"]) {
    if (group["name"] == "attn.q.heads") {
      EXPECT_LT(group["kept"].size(), kHeads) << "a head goes where it may";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    SpaceOptions, PipelineE2e,
    testing::Values(std::tuple("", 0.5), std::tuple("decouple_residuals = true\n", 0.5),
                    std::tuple("depth = true\n", 0.3),
                    std::tuple("decouple_residuals = true\ndepth = true\n", 0.3),
                    std::tuple("attention = \"heads\"\n", 0.3),
                    std::tuple("attention = \"both\"\n", 0.3),
                    std::tuple("attention = \"both\"\ndepth = true\n", 0.3),
                    std::tuple("attention = \"both\"\ndepth = true\nexclude = [\"mlp2.*\"]\n",
                               0.5)));

}  // namespace
}  // namespace espalier

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <set>

#include "env/base/files.h"
#include "env/graph/executor.h"
#include "env/graph/io.h"
#include "env/graph/torchscript.h"
#include "env/space/space.h"
#include "tests/env/graph/io_python.h"
#include "tests/env/graph/io_testing.h"

namespace espalier {
namespace {

using testing::HasSubstr;

// ---- the same model as TorchScript and as .pt2 ----

/// Runs tests/e2e/check_script.py once; nothing when there is no Python.
const std::filesystem::path* PythonModels() {
  static const auto folder = []() -> std::optional<std::filesystem::path> {
    const char* python = std::getenv("ESPALIER_PYTHON");
    if (!python || !*python) return std::nullopt;
    const auto path =
        std::filesystem::path(testing::TempDir()) / Str("espalier_torchscript_", getpid());
    std::filesystem::create_directories(path);
    const std::string command = Str(python, " tests/e2e/check_script.py ", path.string(), " > ",
                                    (path / "log").string(), " 2>&1");
    if (std::system(command.c_str()) != 0) throw Error(ErrorKind::kData, ReadFile(path / "log"));
    return path;
  }();
  return folder ? &*folder : nullptr;
}

/// What must be equal: operators with their modules, without how sizes are computed and how
/// torch.export marks tensors that stand in the code.
std::vector<std::string> Calls(const Graph& graph) {
  std::vector<std::string> calls;
  for (const Op& op : graph.ops) {
    const std::string target = op.target();
    if (target.starts_with("espalier_sym::") || target == "aten::sym_size.int" ||
        target == "aten::lift_fresh_copy" || target == "aten::detach_")
      continue;
    calls.push_back(Str(target, " at ", op.module_path, " of ", op.module_type));
  }
  return calls;
}

std::set<std::string> Groups(const Network& network) {
  std::set<std::string> groups;
  const Space space = BuildSpace(network);
  for (const Group& group : space.groups()) {
    std::set<std::string> members;
    for (const Member& member : group.members)
      members.insert(Str(member.parameter, '/', member.axis, '/', member.per_unit));
    std::string text = Str(group.name, ' ', group.kind, ' ', group.units, ':');
    for (const std::string& member : members) text += ' ' + member;
    groups.insert(text);
  }
  return groups;
}

class TorchScriptE2e : public testing::TestWithParam<std::tuple<const char*, const char*>> {
 protected:
  std::map<std::string, Tensor> Expected(const std::string& name) {
    std::map<std::string, Tensor> expected;
    for (auto& [key, tensor] : ReadSafetensors(*PythonModels() / (name + ".safetensors")).tensors)
      expected[key] = tensor;
    return expected;
  }
  static std::vector<Tensor> Side(const std::map<std::string, Tensor>& all,
                                  const std::string& prefix) {
    std::vector<Tensor> side;
    while (all.contains(Str(prefix, side.size()))) side.push_back(all.at(Str(prefix, side.size())));
    return side;
  }
};

TEST_P(TorchScriptE2e, GivesTheNetworkOfThePt2) {
  if (!PythonModels()) GTEST_SKIP() << "ESPALIER_PYTHON is not set";
  const auto [model, form] = GetParam();
  const auto expected = Expected(model);
  std::vector<Sample> samples;
  for (const Tensor& input : Side(expected, "batch2.in")) samples.push_back({"", input});
  const Network net = ReadTorchScript(*PythonModels() / Str(model, '.', form, ".pt"), samples);
  const Network twin = ReadPt2(*PythonModels() / Str(model, ".pt2"));

  EXPECT_EQ(Calls(net.graph), Calls(twin.graph));
  for (const InputSpec& input : net.graph.inputs) EXPECT_TRUE(input.dynamic_batch);
  EXPECT_EQ(net.store.ParameterCount(), twin.store.ParameterCount());
  for (const std::string& name : twin.store.names()) {
    if (twin.store.Kind(name) == StoreKind::kConstant) continue;
    ASSERT_TRUE(net.store.Has(name)) << name;
    EXPECT_TRUE(at::equal(net.store.Get(name), twin.store.Get(name))) << name;
    EXPECT_EQ(net.store.Kind(name), twin.store.Kind(name)) << name;
    EXPECT_EQ(net.store.Canonical(name) == name, twin.store.Canonical(name) == name) << name;
  }
  EXPECT_EQ(Groups(net), Groups(twin));

  const at::NoGradGuard no_grad;
  const Executor executor(net.graph);
  for (const std::string batch : {"batch2", "batch5"}) {
    const auto outputs = executor.Run(executor.Bind(net.store), Side(expected, batch + ".in"));
    const auto wanted = Side(expected, batch + ".out");
    ASSERT_EQ(outputs.size(), wanted.size());
    for (size_t i = 0; i < outputs.size(); ++i)
      EXPECT_TRUE(at::allclose(outputs[i], wanted[i], 1e-5, 1e-6)) << batch << " output " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, TorchScriptE2e,
    testing::Combine(testing::Values("residual", "views", "depthwise", "attention", "tied",
                                     "recurrent", "other", "outputs", "loops"),
                     testing::Values("traced", "scripted")),
    [](const auto& info) { return Str(std::get<0>(info.param), "_", std::get<1>(info.param)); });

TEST(TorchScriptFilesE2e, AsPt2TheyLoadRunUnflattenAndExportAgain) {
  if (!PythonModels()) GTEST_SKIP() << "ESPALIER_PYTHON is not set";
  for (const char* file : {"views.traced.pt", "recurrent.scripted.pt"}) {
    const TempFolder folder;
    const auto sizes = std::string(file).starts_with("views") ? std::vector<int64_t>{1, 3, 8, 8}
                                                              : std::vector<int64_t>{1, 5, 6};
    const Network net = ReadTorchScript(*PythonModels() / file, {{"", at::zeros(sizes)}});
    EXPECT_EQ(CheckProgram(std::getenv("ESPALIER_PYTHON"), folder, net), "") << file;
  }
}

TEST(TorchScriptFilesE2e, RefusalsNameTheirPlace) {
  if (!PythonModels()) GTEST_SKIP() << "ESPALIER_PYTHON is not set";
  const auto error_of = [&](const std::string& name, const std::vector<int64_t>& sizes) {
    const std::string text = ModelErrorOf([&] {
      ReadTorchScript(*PythonModels() / (name + ".pt"), {{"", at::ones(sizes)}});
    });
    EXPECT_THAT(text, HasSubstr(name + ".pt"));
    return text;
  };
  EXPECT_THAT(error_of("on_data", {2, 6}), HasSubstr("check_script.py"));
  EXPECT_THAT(error_of("counts", {2, 6}), HasSubstr("'calls'"));
  EXPECT_THAT(error_of("state_code", {2, 6}), HasSubstr("__setstate__"));
  EXPECT_THAT(error_of("training", {2, 3, 16, 16}), HasSubstr("model.eval()"));
  const Network fixed = ReadTorchScript(*PythonModels() / "fixed.pt", {{"", at::ones({4, 6})}});
  EXPECT_FALSE(fixed.graph.inputs.at(0).dynamic_batch);
}

}  // namespace
}  // namespace espalier

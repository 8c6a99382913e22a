#include <ATen/ATen.h>
#include <caffe2/serialize/inline_container.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/jit/api/module.h>

#include <cstdlib>
#include <random>

#include "env/graph/torchscript.h"

#include "env/base/files.h"
#include "env/graph/archive_writer.h"
#include "env/graph/executor.h"
#include "env/graph/io.h"
#include "tests/env/graph/io_testing.h"

namespace espalier {
namespace {

using testing::AllOf;
using testing::HasSubstr;

/// A scripted module made here: `code` is its forward. Has weight [4, 3], bias [4], flag, training.
torch::jit::Module Scripted(const std::string& code) {
  torch::jit::Module module("Net");
  module.register_parameter("weight", at::arange(12, at::kFloat).view({4, 3}).div(6), false);
  module.register_parameter("bias", at::ones({4}), false);
  module.register_buffer("seen", at::zeros({1}));
  module.register_attribute("flag", c10::BoolType::get(), true);
  module.register_attribute("training", c10::BoolType::get(), true);
  module.define(code);
  return module;
}

std::vector<Sample> Rows(int64_t batch) { return {{"", at::ones({batch, 3})}}; }

/// Writes, reads, and returns the network.
Network ReadBack(const TempFolder& folder, const std::string& code,
                 const std::vector<Sample>& samples = Rows(2)) {
  Scripted(code).save((folder / "net.pt").string());
  return ReadTorchScript(folder / "net.pt", samples);
}

std::string ErrorOf(const std::string& code, const std::vector<Sample>& samples = Rows(2)) {
  const TempFolder folder;
  const std::string text = ModelErrorOf([&] { ReadBack(folder, code, samples); });
  EXPECT_THAT(text, HasSubstr("net.pt"));
  return text;
}

std::vector<std::string> Targets(const Graph& graph) {
  std::vector<std::string> targets;
  for (const Op& op : graph.ops) targets.push_back(op.target());
  return targets;
}

TEST(TorchScriptUnit, ParametersKeepTheirNamesAndTheBatchStaysFree) {
  const TempFolder folder;
  const Network net = ReadBack(folder, R"(
def forward(self, x):
    return torch.linear(x, self.weight, self.bias).view(x.size(0) * 2, 2)
)");
  EXPECT_EQ(net.name, "net");
  EXPECT_EQ(net.store.names(), (std::vector<std::string>{"weight", "bias", "seen"}));
  EXPECT_EQ(net.store.Kind("seen"), StoreKind::kBuffer);
  EXPECT_EQ(Targets(net.graph), (std::vector<std::string>{"aten::linear", "aten::sym_size.int",
                                                          "espalier_sym::mul", "aten::view"}));
  const Tensor x = at::randn({7, 3});
  EXPECT_TRUE(
      at::equal(Forward(net, x),
                at::linear(x, net.store.Get("weight"), net.store.Get("bias")).view({14, 2})));
}

TEST(TorchScriptUnit, LoopsListsAndConditionsOnConstantsDisappear) {
  const TempFolder folder;
  const Network net = ReadBack(folder, R"(
def twice(self, x: Tensor) -> Tensor:
    return x + x

def forward(self, x):
    parts = [x]
    for i in range(3):
        if i == 1 and self.flag and not self.training:
            parts.append(self.twice(parts[-1]))
    names = {"a": parts[0], "b": parts[-1]}
    return torch.cat([names["a"], names["b"]], 1)[:, :x.size(1) + 1]
)");
  const Tensor x = at::randn({4, 3});
  EXPECT_TRUE(at::equal(Forward(net, x), at::cat({x, x + x}, 1).slice(1, 0, 4)));
  for (const std::string& target : Targets(net.graph))
    EXPECT_THAT(target, testing::AnyOf("aten::add.Tensor", "aten::cat", "aten::slice.Tensor"));
}

TEST(TorchScriptUnit, ArithmeticOnSizesFollowsTheBatch) {
  const TempFolder folder;
  const Network net = ReadBack(folder, R"(
def forward(self, x):
    n = x.size(0)
    y = torch.cat([x, x], 0)
    half = y.size(0) // 2
    return y.view(n, 2 * (half + n) * 3 // (n + n)).narrow(0, n - 1, 1) + x.numel()
)");
  for (const int64_t batch : {1, 4, 6}) {
    const Tensor x = at::randn({batch, 3});
    const Tensor expected = at::cat({x, x}, 0).view({batch, 6}).narrow(0, batch - 1, 1) + 3 * batch;
    EXPECT_TRUE(at::allclose(Forward(net, x), expected)) << batch;
  }
}

TEST(TorchScriptUnit, CallsNobodyReadsAreDropped) {
  const TempFolder folder;
  const Network net = ReadBack(folder, R"(
def forward(self, x):
    y = torch.relu(x)
    z = torch.sigmoid(y)
    return y
)");
  EXPECT_EQ(Targets(net.graph), std::vector<std::string>{"aten::relu"});
}

TEST(TorchScriptUnit, ANetworkBoundToItsBatchIsReadWithThatBatch) {
  const TempFolder folder;
  const Network net = ReadBack(folder, R"(
def forward(self, x):
    return x.view([4, 3, 1]).sum(1)
)",
                               Rows(4));
  EXPECT_FALSE(net.graph.inputs.at(0).dynamic_batch);
  EXPECT_EQ(net.graph.inputs.at(0).sizes, (std::vector<int64_t>{4, 3}));
}

TEST(TorchScriptUnit, WhatDependsOnDataIsRefusedWithItsPlace) {
  EXPECT_THAT(ErrorOf("def forward(self, x):\n    if bool(x.sum() > 0):\n        x = x + 1\n"
                      "    return x\n"),
              AllOf(HasSubstr("aten::Bool"), HasSubstr("tensor data"), HasSubstr(":2")));
  EXPECT_THAT(ErrorOf("def forward(self, x):\n    n = int(x.sum())\n    return x.view(n, -1)\n"),
              HasSubstr("tensor data"));
  EXPECT_THAT(ErrorOf("def forward(self, x):\n    self.seen += 1\n    return x + self.seen\n"),
              AllOf(HasSubstr("writes to the stored tensor 'seen'"), HasSubstr("model.eval()")));
  EXPECT_THAT(ErrorOf("def forward(self, x):\n    self.flag = False\n    return x\n"),
              HasSubstr("writes the attribute 'flag'"));
  EXPECT_THAT(ErrorOf("def forward(self, x):\n    x += 1\n    return x\n"),
              HasSubstr("writes to its input 'x'"));
  EXPECT_THAT(ErrorOf("def forward(self, x):\n    assert x.size(1) == 4, \"four columns\"\n"
                      "    return x\n"),
              HasSubstr("four columns"));
  EXPECT_THAT(ErrorOf("def forward(self, x):\n    while True:\n        x = x + 1\n    return x\n",
                      {{"", at::ones({1})}}),
              HasSubstr("more than 50000 operators"));
}

TEST(TorchScriptUnit, SamplesMustFitForward) {
  const std::string code =
      "def forward(self, x, y, scale: float = 2.0):\n    return (x - y) * scale\n";
  EXPECT_THAT(ErrorOf(code, {}), HasSubstr("--input-shape"));
  EXPECT_THAT(ErrorOf(code),
              AllOf(HasSubstr("takes 3 inputs (x, y, scale)"), HasSubstr("1 sample")));
  EXPECT_THAT(ErrorOf(code, {{"x", at::ones({2, 3})}, {"z", at::ones({2, 3})}}),
              HasSubstr("no sample is given for the input 'y'"));
  const TempFolder folder;
  const Network net = ReadBack(folder, code, {{"y", at::ones({2, 3})}, {"x", at::ones({2, 3})}});
  const at::NoGradGuard no_grad;
  const Executor executor(net.graph);
  const Tensor x = at::randn({3, 3}), y = at::randn({3, 3});
  EXPECT_TRUE(at::equal(executor.Run(executor.Bind(net.store), {x, y}).front(), (x - y) * 2));
}

TEST(TorchScriptUnit, SamplesThatDoNotFitSayWhichOperatorFails) {
  EXPECT_THAT(ErrorOf("def forward(self, x):\n    return torch.linear(x, self.weight)\n",
                      {{"", at::ones({2, 5})}}),
              AllOf(HasSubstr("aten::linear"), HasSubstr("it fails")));
}

// ---- files that lie ----

TEST(TorchScriptHostileUnit, CodeThatWouldRunOnLoadingIsRefused) {
  const TempFolder folder;
  torch::jit::Module module = Scripted(R"(
def forward(self, x):
    return x
)");
  module.define("def __getstate__(self) -> int:\n    return 1\n");
  module.define("def __setstate__(self, state: int) -> None:\n    self.training = True\n");
  module.save((folder / "net.pt").string());
  EXPECT_THAT(ModelErrorOf([&] { ReadTorchScript(folder / "net.pt", Rows(2)); }),
              AllOf(HasSubstr("__setstate__"), HasSubstr("code/")));
}

TEST(TorchScriptHostileUnit, OtherFilesAreToldApart) {
  const TempFolder folder;
  Scripted("def forward(self, x):\n    return x\n").save((folder / "net.pt").string());
  EXPECT_TRUE(IsTorchScript(folder / "net.pt"));
  ParameterStore store;
  store.Add("w", at::ones({2}), StoreKind::kParameter);
  WriteStateDict(folder / "state.pt", store);
  EXPECT_FALSE(IsTorchScript(folder / "state.pt"));
  EXPECT_THAT(ModelErrorOf([&] { ReadTorchScript(folder / "state.pt", Rows(2)); }),
              AllOf(HasSubstr("state.pt"), HasSubstr("no TorchScript archive")));
  WriteBytes(folder / "text.pt", "hello");
  EXPECT_THAT(ModelErrorOf([&] { IsTorchScript(folder / "text.pt"); }), HasSubstr("text.pt"));
}

TEST(TorchScriptHostileProperty, TruncatedAndFlippedArchivesNeverCrash) {
  const TempFolder folder;
  Scripted("def forward(self, x):\n    return torch.linear(x, self.weight, self.bias)\n")
      .save((folder / "good.pt").string());
  const std::string good = ReadFile(folder / "good.pt");
  for (size_t i = 0; i < 40; ++i) {
    WriteBytes(folder / "bad.pt", good.substr(0, good.size() * i / 40));
    EXPECT_THAT(ModelErrorOf([&] { ReadTorchScript(folder / "bad.pt", Rows(2)); }),
                HasSubstr("bad.pt"))
        << i;
  }
  for (size_t i = 0; i < 200; ++i) {  // one byte changed: an error or a network, nothing else
    std::string bytes = good;
    bytes[bytes.size() * i / 200] ^= static_cast<char>(1 + i % 255);
    WriteBytes(folder / "bad.pt", bytes);
    try {
      ReadTorchScript(folder / "bad.pt", Rows(2));
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kModel) << i;
      EXPECT_THAT(error.message(), HasSubstr("bad.pt")) << i;
    }
  }
}

/// Bytes inside of entries changed, with checksums that fit: the pickles and the code themselves.
TEST(TorchScriptHostileProperty, MutatedEntriesNeverCrash) {
  const TempFolder folder;
  Scripted(
      "def forward(self, x):\n    y = torch.linear(x, self.weight, self.bias)\n"
      "    return y.view([x.size(0), 4]) if self.flag else y\n")
      .save((folder / "good.pt").string());
  std::vector<std::pair<std::string, std::string>> entries;
  {
    caffe2::serialize::PyTorchStreamReader reader((folder / "good.pt").string());
    for (const std::string& name : reader.getAllRecords()) {
      if (name.starts_with(".data/") || name == "version") continue;  // the writer makes them
      const auto [data, size] = reader.getRecord(name);
      entries.emplace_back(name, std::string(static_cast<const char*>(data.get()), size));
    }
  }
  const char* wanted = std::getenv("ESPALIER_FUZZ_MUTANTS");
  const int64_t mutants = wanted && *wanted ? std::atoll(wanted) : 300;
  int64_t refused = 0;
  for (int64_t seed = 0; seed < mutants; ++seed) {
    SCOPED_TRACE(Str("seed ", seed));
    std::mt19937_64 random(static_cast<uint64_t>(seed));
    auto mutated = entries;
    for (uint64_t change = 0; change <= random() % 3; ++change) {
      std::string& bytes = mutated[random() % mutated.size()].second;
      if (bytes.empty()) continue;
      const size_t at = random() % bytes.size();
      switch (random() % 4) {
        case 0:
          bytes[at] = static_cast<char>(random());
          break;
        case 1:
          bytes.erase(at, 1 + random() % 8);
          break;
        case 2:
          bytes.insert(at, bytes.substr(random() % bytes.size(), 1 + random() % 16));
          break;
        default:
          bytes[at] ^= static_cast<char>(1 << random() % 8);
      }
    }
    WriteArchive(folder / "bad.pt", [&](caffe2::serialize::PyTorchStreamWriter& writer) {
      for (const auto& [name, bytes] : mutated)
        writer.writeRecord(name, bytes.data(), bytes.size());
    });
    try {
      ReadTorchScript(folder / "bad.pt", Rows(2));
    } catch (const Error& error) {
      ++refused;
      EXPECT_EQ(error.kind(), ErrorKind::kModel) << error.message();
      EXPECT_THAT(error.message(), HasSubstr("bad.pt"));
    }
  }
  EXPECT_GT(refused, mutants / 10);
}

}  // namespace
}  // namespace espalier

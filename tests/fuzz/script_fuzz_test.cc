// TorchScript archives: damaged containers, damaged code, damaged pickles.

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/jit/api/module.h>

#include "env/base/files.h"
#include "env/graph/executor.h"
#include "env/graph/torchscript.h"
#include "tests/fuzz/harness.h"
#include "tests/fuzz/networks.h"
#include "tests/support/temp_folder.h"

namespace espalier::fuzz {
namespace {

namespace fs = std::filesystem;

constexpr const char* kCode = R"(
def widened(self, x: Tensor, times: int) -> Tensor:
    parts = [x]
    for _ in range(times):
        parts.append(x + 1)
    return torch.cat(parts, 1)

def forward(self, x: Tensor) -> Dict[str, Tensor]:
    y = torch.conv2d(x, self.weight, self.bias, [1, 1], [1, 1])
    if self.flag:
        y = torch.relu(y)
    y = self.widened(y, 2)
    n = y.size(0)
    return {"scores": y.view(n, -1).mean(1, True), "all": y.reshape([n * 2, 6, -1])}
)";

std::string GoodScript() {
  torch::jit::Module module("Net");
  module.register_parameter("weight", at::arange(108, at::kFloat).view({4, 3, 3, 3}).div(54),
                            false);
  module.register_parameter("bias", at::ones({4}), false);
  module.register_buffer("seen", at::zeros({1}));
  module.register_attribute("flag", c10::BoolType::get(), true);
  module.register_attribute("training", c10::BoolType::get(), false);
  module.define(kCode);
  const TempFolder folder;
  module.save((folder / "good.pt").string());
  return ReadFile(folder / "good.pt");
}

/// Numbers, names, operators and brackets exchanged for others of the language.
std::string DamageCode(Rng& rng, const std::string& code) {
  static const std::vector<std::string> words = {"0",
                                                 "-1",
                                                 "9223372036854775807",
                                                 "1000000000",
                                                 "[",
                                                 "]",
                                                 "(",
                                                 ")",
                                                 "self",
                                                 "x",
                                                 "None",
                                                 "True",
                                                 "while",
                                                 "for",
                                                 "return",
                                                 "import",
                                                 "torch.empty",
                                                 "torch.ones",
                                                 "len",
                                                 "range",
                                                 "lambda",
                                                 "@",
                                                 "1e308",
                                                 "\"text\"",
                                                 "prim.abs",
                                                 "ops.",
                                                 "CONSTANTS.c0",
                                                 "__torch__.",
                                                 "def f(self):\n  return f(self)\n",
                                                 "\t",
                                                 "annotate(List[int], [])"};
  return DamageText(rng, code, words);
}

TEST(TorchScriptFuzzProperty, HostileArchives) {
  const std::string good = GoodScript();
  const TempFolder folder;
  WriteFileAtomic(folder / "good.pt", good);
  const std::vector<ZipEntry> unpacked = Unpack(folder / "good.pt");
  const std::vector<Sample> samples = {{"", at::ones({2, 3, 4, 4})}};
  FuzzReader({.name = "torchscript",
              .file = "mutant.pt",
              .good = {good},
              .mutate =
                  [&](Rng& rng) {
                    if (OneIn(rng, 6)) return DamageBytes(rng, good);
                    if (OneIn(rng, 3)) return DamageZip(rng, unpacked);
                    std::vector<ZipEntry> entries = unpacked;
                    for (ZipEntry& entry : entries) {
                      if (entry.name.ends_with(".py") && OneIn(rng, 2))
                        entry.bytes = DamageCode(rng, entry.bytes);
                      if (entry.name.ends_with(".pkl") && OneIn(rng, 4))
                        entry.bytes = DamageBytes(rng, entry.bytes);
                    }
                    return PackZip(entries);
                  },
              .read = [&](const fs::path& path) { Use(ReadTorchScript(path, samples)); },
              .places = {"entry ", "is no readable archive: ", "LibTorch cannot read it", " at '",
                         "no method 'forward'"},
              // LibTorch's parser allocates for its own tables.
              .allowance = uint64_t{16} << 20});
}

}  // namespace
}  // namespace espalier::fuzz

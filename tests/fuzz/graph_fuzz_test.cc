// Archives and tensor files.

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "env/base/files.h"
#include "env/graph/executor.h"
#include "env/graph/io.h"
#include "env/train/checkpoint.h"
#include "tests/env/graph/io_networks.h"
#include "tests/fuzz/harness.h"
#include "tests/fuzz/networks.h"
#include "tests/support/temp_folder.h"

namespace espalier::fuzz {
namespace {

namespace fs = std::filesystem;

void FuzzPt2(const std::string& name, const std::vector<std::string>& good) {
  std::vector<std::vector<ZipEntry>> unpacked;
  const TempFolder folder;
  for (const std::string& bytes : good) {
    WriteFileAtomic(folder / "good.pt2", bytes);
    unpacked.push_back(Unpack(folder / "good.pt2"));
  }
  FuzzReader({.name = name,
              .file = "mutant.pt2",
              .good = good,
              .mutate =
                  [&](Rng& rng) {
                    const size_t which = rng.Index(good.size());
                    return OneIn(rng, 5) ? DamageBytes(rng, good[which])
                                         : DamageZip(rng, unpacked[which]);
                  },
              .read = [](const fs::path& path) { Use(ReadPt2(path)); },
              .places = {"entry ", "is no readable archive: "}});
}

std::string Written(const Network& network) {
  const TempFolder folder;
  WritePt2(folder / "good.pt2", network);
  return ReadFile(folder / "good.pt2");
}

TEST(Pt2FuzzProperty, HostileArchives) {
  Network small = SmallConvNet();
  small.extras["extra/notes.txt"] = "carried through";
  FuzzPt2("pt2", {Written(small), Written(ManyKindsNet())});
}

constexpr const char* kExport = R"(import sys, torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(7, 4)
        self.norm = torch.nn.LayerNorm(4)
        self.head = torch.nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("scale", torch.ones(4), persistent=False)
    def forward(self, tokens):
        x = self.norm(self.embed(tokens)) * self.scale
        return self.head(x.reshape(x.shape[0], 3, 4)), x.sum(1)
tokens = torch.zeros(2, 3, dtype=torch.int64)
batch = {0: torch.export.Dim("batch", min=1)}
torch.export.save(torch.export.export(Net().eval(), (tokens,), dynamic_shapes=(batch,)), sys.argv[1])
)";

TEST(Pt2FuzzProperty, HostileArchivesOfPyTorch) {
  const char* python = std::getenv("ESPALIER_PYTHON");
  if (!python || !*python) GTEST_SKIP() << "ESPALIER_PYTHON is not set";
  const TempFolder folder;
  WriteBytes(folder / "export.py", kExport);
  const fs::path file = folder / "good.pt2";
  const std::string command = Str("'", python, "' '", (folder / "export.py").string(), "' '",
                                  file.string(), "' >/dev/null 2>&1");
  ASSERT_EQ(std::system(command.c_str()), 0) << command;
  FuzzPt2("pt2 of PyTorch", {ReadFile(file)});
}

TEST(Pt2FuzzProperty, PackedAgainByAnotherProgram) {
  const TempFolder folder;
  WritePt2(folder / "good.pt2", SmallConvNet());
  const std::string hash = ReadPt2(folder / "good.pt2").WeightsHash();
  for (const bool deflate : {false, true}) {
    for (const bool zip64 : {false, true}) {
      WriteFileAtomic(folder / "again.pt2",
                      PackZip(Unpack(folder / "good.pt2"), {.deflate = deflate, .zip64 = zip64}));
      EXPECT_EQ(ReadPt2(folder / "again.pt2").WeightsHash(), hash);
    }
  }
}

std::string SafetensorsBytes() {
  const TempFolder folder;
  WriteSafetensors(folder / "good.safetensors",
                   {{{"conv.weight", at::arange(24, at::kFloat).view({2, 3, 2, 2})},
                     {"half", at::ones({5}, at::kHalf)},
                     {"flags", at::ones({7}, at::kBool)},
                     {"count", at::tensor(7, at::kLong)},
                     {"none", at::empty({0, 3})},
                     {"double", at::ones({2, 2}, at::kDouble)}},
                    {{"format", "pt"}, {"held_out", "none"}}});
  return ReadFile(folder / "good.safetensors");
}

TEST(SafetensorsFuzzProperty, HostileFiles) {
  const std::string good = SafetensorsBytes();
  FuzzReader({.name = "safetensors",
              .file = "mutant.safetensors",
              .good = {good},
              .mutate = [&](Rng& rng) { return DamageSafetensors(rng, good); },
              .read =
                  [](const fs::path& path) {
                    for (const auto& [name, tensor] : ReadSafetensors(path).tensors)
                      TouchAll(tensor);
                  },
              .places = {"byte", "tensor '", "header", "__metadata__"}});
}

TEST(WeightsFuzzProperty, HostileWeightsOfAKnownNetwork) {
  const TempFolder folder;
  SaveWeights(folder / "good.safetensors", SmallConvNet().store, {{"architecture", "small"}});
  const std::string good = ReadFile(folder / "good.safetensors");
  Network network = SmallConvNet();
  FuzzReader({.name = "weights",
              .file = "mutant.safetensors",
              .good = {good},
              .mutate = [&](Rng& rng) { return DamageSafetensors(rng, good); },
              .read =
                  [&](const fs::path& path) {
                    LoadWeights(path, network.store);
                    for (const std::string& name : network.store.names())
                      TouchAll(network.store.Get(name));
                  },
              .places = {"byte", "tensor '", "header", "__metadata__", "do not fit: "}});
}

TEST(CheckpointFuzzProperty, HostileCheckpoints) {
  const TempFolder folder;
  const RunIdentity identity = {{"network", "a1"}, {"data", "b2"}};
  std::vector<NamedTensor> tensors = {{"weights/fc.weight", at::ones({3, 2})},
                                      {"momentum/fc.weight", at::zeros({3, 2})},
                                      {"correct", at::tensor(3, at::kLong)}};
  const TrainPosition position{
      .epoch = 2,
      .batch = 1,
      .steps = 9,
      .bfloat16 = false,
      .seconds = 0.5,
      .history = {{1, 0.1, 2.3, 0.1, 0.2, 4.5}, {2, 0.1, 2, 0.2, 0.3, 4.5}}};
  WriteCheckpoint(folder / "good.safetensors", identity, position, tensors);
  const std::string good = ReadFile(folder / "good.safetensors");
  const TensorFile file = ReadSafetensors(folder / "good.safetensors");
  const auto state = nlohmann::json::parse(file.metadata.at("state"));
  const size_t data_at = good.size() - (3 * 2 * 2 * sizeof(float) + sizeof(int64_t));
  const auto header = nlohmann::json::parse(good.substr(8, data_at - 8));
  const std::string data = good.substr(data_at);
  constexpr auto kReplace = nlohmann::json::error_handler_t::replace;
  FuzzReader({.name = "checkpoint",
              .file = "mutant.safetensors",
              .good = {good},
              .mutate =
                  [&](Rng& rng) {
                    if (OneIn(rng, 2)) return DamageSafetensors(rng, good);
                    nlohmann::json changed = header;
                    changed["__metadata__"]["state"] = DamageJson(rng, state);
                    const std::string text = changed.dump(-1, ' ', false, kReplace);
                    return LittleEndian(text.size(), 8) + text + data;
                  },
              .read =
                  [&](const fs::path& path) {
                    const TrainPosition read = ReadCheckpoint(path, identity, tensors);
                    EXPECT_GE(read.epoch, 0);
                    EXPECT_GE(read.batch, 0);
                    EXPECT_GE(read.steps, 0);
                    EXPECT_EQ(read.history.size(), static_cast<size_t>(read.epoch));
                  },
              .places = {"byte", "tensor '", "header", "__metadata__", "state",
                         "checkpoint of format", "different: "},
              .kind = ErrorKind::kData});
}

}  // namespace
}  // namespace espalier::fuzz

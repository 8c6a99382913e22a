#pragma once

#include <ATen/ATen.h>
#include <png.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "env/base/error.h"
#include "env/base/files.h"
#include "env/base/rng.h"
#include "env/data/splits.h"

namespace espalier::testing_support {

/// Images a small network can learn: each class has a colour, with noise around it.
/// images [N, channels, size, size] uint8, labels 0, 1, ..., classes - 1, 0, ...
inline ImageSet TinyImages(int64_t count, int64_t size = 8, int64_t classes = 10, uint64_t seed = 1,
                           int64_t channels = 3) {
  Rng rng(seed);
  ImageSet set;
  set.images = at::empty({count, channels, size, size}, at::kByte);
  std::vector<int64_t> labels;
  auto* out = set.images.data_ptr<uint8_t>();
  for (int64_t image = 0; image < count; ++image) {
    const int64_t label = image % classes;
    labels.push_back(label);
    for (int64_t channel = 0; channel < channels; ++channel) {
      const int64_t base = (label * 37 + channel * label * 91) % 190;
      for (int64_t i = 0; i < size * size; ++i)
        *out++ = static_cast<uint8_t>(base + static_cast<int64_t>(rng.Index(64)));
    }
  }
  set.labels = at::tensor(labels, at::kLong);
  return set;
}

/// In-memory splits with the CIFAR-10 normalisation.
inline Splits TinySplits(int64_t train, int64_t validation, int64_t test, int64_t size = 8,
                         const std::string& augmentation = "crop_flip") {
  DataConfig config;
  config.validation = static_cast<double>(validation);
  config.augmentation = augmentation;
  return Splits(config, TinyImages(train, size, 10, 1), TinyImages(validation, size, 10, 2),
                TinyImages(test, size, 10, 3));
}

/// One image a row, as the PNGs of the npm package: images [N, 3, S, S] uint8.
inline void WriteRowPng(const std::filesystem::path& path, const Tensor& images) {
  const Tensor pixels = images.permute({0, 2, 3, 1}).contiguous();  // [N, S, S, 3]
  png_image png{};
  png.version = PNG_IMAGE_VERSION;
  png.width = static_cast<png_uint_32>(images.size(2) * images.size(3));
  png.height = static_cast<png_uint_32>(images.size(0));
  png.format = PNG_FORMAT_RGB;
  ESPALIER_CHECK(png_image_write_to_file(&png, path.c_str(), 0, pixels.data_ptr(), 0, nullptr),
                 png.message);
}

inline void WriteLabels(const std::filesystem::path& path, const Tensor& labels) {
  std::string text = "[";
  for (int64_t i = 0; i < labels.size(0); ++i) text += Str(i ? "," : "", labels[i].item<int64_t>());
  WriteFileAtomic(path, text + "]");
}

/// A data set `cifar10` of 32 x 32 images under root/cifar10; `train` is a multiple of 5.
inline void WriteTinyCifar10(const std::filesystem::path& root, int64_t train, int64_t test) {
  const std::filesystem::path folder = root / "cifar10";
  std::filesystem::create_directories(folder);
  const ImageSet images = TinyImages(train, 32, 10, 1), held_out = TinyImages(test, 32, 10, 3);
  for (int64_t file = 0; file < 5; ++file)
    WriteRowPng(folder / Str("data_batch_", file + 1, ".png"),
                images.images.narrow(0, file * (train / 5), train / 5));
  WriteRowPng(folder / "test_batch.png", held_out.images);
  WriteLabels(folder / "train_lables.json", images.labels);
  WriteLabels(folder / "test_lables.json", held_out.labels);
}

/// A fresh folder, removed at the end of the test.
class TempFolder {
 public:
  explicit TempFolder(const std::string& name)
      : path_(std::filesystem::temp_directory_path() / Str("espalier-", name, "-", getpid())) {
    std::filesystem::remove_all(path_);
    std::filesystem::create_directories(path_);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  ~TempFolder() { std::filesystem::remove_all(path_); }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace espalier::testing_support

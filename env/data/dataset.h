#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "env/base/config.h"
#include "env/base/rng.h"
#include "env/base/tensor.h"

namespace espalier {

/// Images in memory as bytes.
struct ImageSet {
  Tensor images;  ///< [N, C, H, W] uint8
  Tensor labels;  ///< [N] int64
  int64_t classes = 0;
  int64_t count() const { return labels.defined() ? labels.size(0) : 0; }
};

struct DataConfig {
  std::string name = "cifar10";   ///< cifar10, cifar100, mnist
  std::string root = "data";      ///< folder; relative to the current directory
  int64_t validation = 5000;      ///< training images held out for selection
  std::vector<double> mean, std;  ///< per channel, of pixels in 0..1; empty = the data set's own
  std::string augmentation = "crop_flip";  ///< crop_flip (pad 4, horizontal flip), none
  std::string seen = "";  ///< "train" when the given weights were trained on all training
                          ///< images: reports then say that validation is not held out
  int64_t limit = 0;      ///< use only the first N training images (tests); 0 = all
};
Schema Describe(DataConfig& config);

/// Training, validation and test images. The validation images are a fixed, seed-independent choice
/// (the last `validation` of the training set in file order), so that weights trained with one
/// config never saw another config's validation images. test() is read once per run.
class Splits {
 public:
  /// Errors: kData naming file, expected and found, and the command that fetches the data set.
  static Splits Load(const DataConfig& config);
  const ImageSet& train() const { return train_; }
  const ImageSet& validation() const { return validation_; }
  const ImageSet& test() const { return test_; }
  const DataConfig& config() const { return config_; }
  Tensor Normalize(const Tensor& images) const;  ///< uint8 [B,C,H,W] -> float32, (x/255 - mean)/std
  Splits(DataConfig config, ImageSet train, ImageSet validation, ImageSet test);

 private:
  DataConfig config_;
  ImageSet train_, validation_, test_;
};

/// Endless shuffled mini-batches of the training split, augmented, from explicit streams.
///
/// Random   epoch e draws its permutation and augmentation from (seed, e): restarting at (epoch,
///          batch) continues exactly. State: epoch and batch.
class Loader {
 public:
  struct Batch {
    Tensor images;  ///< [B, C, H, W] float32, normalised, channels_last when asked
    Tensor labels;  ///< [B] int64
  };
  struct Options {
    int64_t batch_size = 128;
    bool augment = true;
    bool drop_last = true;
    bool channels_last = true;
    uint64_t seed = 0;
  };
  Loader(const Splits& splits, const ImageSet& images, const Options& options);
  int64_t batches_per_epoch() const;
  Batch Get(int64_t epoch, int64_t batch);  ///< random access; sequential access is the fast path

 private:
  const Splits& splits_;
  const ImageSet& images_;
  const Options options_;
  int64_t cached_epoch_ = -1;
  Tensor order_;  // [N] permutation of the cached epoch
};

/// Random crop after zero padding, and horizontal flip, on uint8 tensors.
/// [B, C, H, W] uint8 -> the same shape. Draws 2 offsets and 1 flip per image from rng.
Tensor AugmentCropFlip(const Tensor& images, int64_t padding, Rng& rng);

}  // namespace espalier

#pragma once

#include <string>
#include <vector>

#include "env/base/config.h"
#include "env/data/dataset.h"
#include "env/graph/network.h"

namespace espalier {

struct DataConfig {
  std::string name = "cifar10";  ///< cifar10, cifar100, mnist, image_folder, tensors
  std::string root = "data";     ///< folder; relative to the current directory
  /// Held out of the training samples for selection: a share below 1, or a number of samples.
  double validation = 0.1;
  double test = 0.1;  ///< the same for the test; only of folders that have no test folder
  std::vector<double> mean, std;  ///< per channel, of pixels in 0..1; empty = the data set's own
  std::string augmentation = "crop_flip";  ///< crop_flip (pad 4, horizontal flip), none
  double crop = 1;  ///< image_folder: side that the centre crop keeps of an image just covering it
  std::string seen = "";  ///< "train" when the given weights were trained on all training
                          ///< samples: reports then say that validation is not held out
  int64_t limit = 0;      ///< use only the first N training samples (tests); 0 = all
};
Schema Describe(DataConfig& config);

/// Images in memory as bytes: what the readers of data sets return.
struct ImageSet {
  Tensor images;  ///< [N, C, H, W] uint8
  Tensor labels;  ///< [N] int64; undefined when there are none
  int64_t count() const { return images.defined() ? images.size(0) : 0; }
};

/// Training, validation and test samples. The validation samples are a fixed, seed-independent
/// choice (the last ones of the training set in file order; of a folder without splits, of one
/// fixed shuffle), so that weights trained with one config never saw another config's validation
/// samples. test() is read once per run.
class Splits {
 public:
  /// network: whose inputs the samples are to fit: image folders take their size from it, tensors
  /// are checked against it. Null will do for the other data sets.
  /// Errors: kData naming file, expected and found, and what helps; kConfig for keys that do not
  /// fit the data set.
  static Splits Load(const DataConfig& config, const Network* network = nullptr);
  Splits(DataConfig config, Dataset train, Dataset validation, Dataset test);
  /// Normalised and augmented as the config says; its empty mean and std become the data set's own.
  Splits(const DataConfig& config, const ImageSet& train, const ImageSet& validation,
         const ImageSet& test);

  /// On a device, as they are stored (images as bytes), up to 16 GiB in all; else where they were:
  /// batches are then copied one by one.
  Splits To(at::Device device) const;

  const Dataset& train() const { return train_; }
  const Dataset& validation() const { return validation_; }
  const Dataset& test() const { return test_; }
  const DataConfig& config() const { return config_; }

 private:
  DataConfig config_;
  Dataset train_, validation_, test_;
};

}  // namespace espalier

#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "env/base/rng.h"
#include "env/base/tensor.h"

namespace espalier {

/// Samples side by side, as a network takes them.
struct Batch {
  std::vector<Tensor> inputs;   ///< [B, ...] each, in the order of the network's inputs
  std::vector<Tensor> targets;  ///< [B, ...] each; empty when there are no labels
  int64_t size() const { return inputs.front().size(0); }
  Batch To(at::Device device) const;
  Batch Part(int64_t first, int64_t count) const;  ///< of the samples; shares their memory
};

/// One split: samples in memory, with or without targets. Stored images (uint8 inputs of a data set
/// that has a mean) become float32 when a batch is made, (x / 255 - mean) / std; all other tensors
/// are handed out as they are. A value type: copies share tensors.
struct Dataset {
  std::vector<Tensor> inputs;         ///< [N, ...] each; images [N, C, H, W] uint8
  std::vector<Tensor> targets;        ///< [N, ...] each; may be empty
  std::vector<double> mean{}, std{};  ///< per channel, of pixels in 0..1
  bool crop_flip = false;  ///< augmentation of images: pad 4, random crop, horizontal flip

  int64_t count() const { return inputs.empty() ? 0 : inputs.front().size(0); }
  bool labelled() const { return !targets.empty(); }

  /// `size` samples from `first` on, and the samples of an index [B] int64. channels_last: memory
  /// format of inputs with four axes. augment: null, or where the augmentation draws from.
  Batch Range(int64_t first, int64_t size, bool channels_last = false) const;
  Batch Select(const Tensor& index, bool channels_last = false, Rng* augment = nullptr) const;

  /// The same data set of fewer or reordered samples, as they are stored: Part shares their memory.
  Dataset Part(int64_t first, int64_t count) const;
  Dataset Chosen(const Tensor& index) const;  ///< index [B] int64
  Dataset To(at::Device device) const;
  std::string Hash() const;  ///< SHA-256 of every tensor's bytes, one after the other

 private:
  Batch Finish(Batch batch, bool channels_last, Rng* augment) const;
};

/// Endless shuffled mini-batches of a data set, augmented, from explicit streams.
///
/// Random   epoch e draws its permutation and augmentation from (seed, e): restarting at (epoch,
///          batch) continues exactly. State: epoch and batch.
/// Errors   kConfig for a batch size that the data set cannot fill.
class Loader {
 public:
  struct Options {
    int64_t batch_size = 128;
    bool augment = true;
    bool drop_last = true;
    bool channels_last = true;
    uint64_t seed = 0;
  };
  Loader(const Dataset& data, const Options& options);  ///< keeps a reference
  int64_t batches_per_epoch() const;
  Batch Get(int64_t epoch, int64_t batch);  ///< random access; sequential access is the fast path
  Batch Get(int64_t batch) {                ///< counted through the epochs
    return Get(batch / batches_per_epoch(), batch % batches_per_epoch());
  }

 private:
  const Dataset& data_;
  const Options options_;
  int64_t cached_epoch_ = -1;
  Tensor order_;  // [N] permutation of the cached epoch
};

/// Random crop after zero padding, and horizontal flip, on uint8 tensors, where they are.
/// [B, C, H, W] uint8 -> the same shape. Draws 2 offsets and 1 flip per image from rng.
Tensor AugmentCropFlip(const Tensor& images, int64_t padding, Rng& rng);
/// The same with tensor operations: what AugmentCropFlip does on other devices than the CPU.
Tensor AugmentByIndex(const Tensor& images, int64_t padding, Rng& rng);

}  // namespace espalier

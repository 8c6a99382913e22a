#include <ATen/ATen.h>

#include <algorithm>
#include <cstring>

#include "env/base/error.h"
#include "env/data/dataset.h"

namespace espalier {

namespace {

struct Shift {
  int64_t down, right;  // of the crop, against the image
  bool flip;
};

Shift DrawShift(int64_t padding, Rng& rng) {
  const auto choices = static_cast<uint64_t>(2 * padding + 1);
  const int64_t down = static_cast<int64_t>(rng.Index(choices)) - padding;
  const int64_t right = static_cast<int64_t>(rng.Index(choices)) - padding;
  return {down, right, rng.Index(2) == 1};
}

}  // namespace

Tensor AugmentByIndex(const Tensor& images, int64_t padding, Rng& rng) {
  const int64_t count = images.size(0), height = images.size(2), width = images.size(3);
  std::vector<int64_t> rows, columns;  // of the padded image, for every row and column of a crop
  for (int64_t image = 0; image < count; ++image) {
    const auto [down, right, flip] = DrawShift(padding, rng);
    for (int64_t y = 0; y < height; ++y) rows.push_back(padding + down + y);
    for (int64_t x = 0; x < width; ++x)
      columns.push_back(padding + right + (flip ? width - 1 - x : x));
  }
  const auto index = [&](const std::vector<int64_t>& places, at::IntArrayRef shape) {
    return at::tensor(places, at::kLong).view(shape).to(images.device());
  };
  const auto upwards = at::TensorOptions().dtype(at::kLong).device(images.device());
  const Tensor padded = at::constant_pad_nd(images, {padding, padding, padding, padding}, 0);
  return padded.index({at::arange(count, upwards).view({count, 1, 1, 1}),
                       at::arange(images.size(1), upwards).view({1, images.size(1), 1, 1}),
                       index(rows, {count, 1, height, 1}), index(columns, {count, 1, 1, width})});
}

Tensor AugmentCropFlip(const Tensor& images, int64_t padding, Rng& rng) {
  ESPALIER_CHECK(images.dim() == 4 && images.scalar_type() == at::kByte, "images are ",
                 images.sizes(), " ", images.scalar_type(), ", expected [B, C, H, W] uint8");
  if (!images.is_cpu()) return AugmentByIndex(images, padding, rng);
  const Tensor source = images.contiguous();
  Tensor result = at::zeros_like(source);
  const int64_t channels = source.size(1), height = source.size(2), width = source.size(3);
  const auto* from = source.const_data_ptr<uint8_t>();
  auto* to = result.data_ptr<uint8_t>();
  for (int64_t image = 0; image < source.size(0); ++image) {
    const auto [down, right, flip] = DrawShift(padding, rng);
    // Columns [first, last) of the crop lie inside the image; the rest stays zero.
    const int64_t first = std::max<int64_t>(0, -right), last = std::min(width, width - right);
    for (int64_t row = 0; row < channels * height; ++row) {
      const int64_t y = row % height + down;
      if (y < 0 || y >= height || first >= last) continue;
      const uint8_t* line = from + (image * channels * height + row + down) * width + right;
      uint8_t* out = to + (image * channels * height + row) * width;
      if (flip)
        std::reverse_copy(line + first, line + last, out + width - last);
      else
        std::memcpy(out + first, line + first, static_cast<size_t>(last - first));
    }
  }
  return result;
}

Loader::Loader(const Dataset& data, const Options& options) : data_(data), options_(options) {
  if (options.batch_size < 1)
    throw Error(ErrorKind::kConfig, Str("batch_size = ", options.batch_size, ": must be >= 1"));
  if (data.count() == 0) throw Error(ErrorKind::kConfig, "no samples to load batches from");
  if (options.drop_last && options.batch_size > data.count())
    throw Error(ErrorKind::kConfig, Str("batch_size = ", options.batch_size,
                                        ": must be <= ", data.count(), ", the number of samples"));
}

int64_t Loader::batches_per_epoch() const {
  const int64_t count = data_.count(), size = options_.batch_size;
  return options_.drop_last ? count / size : (count + size - 1) / size;
}

Batch Loader::Get(int64_t epoch, int64_t batch) {
  ESPALIER_CHECK(epoch >= 0 && batch >= 0 && batch < batches_per_epoch(), "batch ", batch,
                 " of epoch ", epoch, ", an epoch has ", batches_per_epoch());
  const auto trial = static_cast<uint64_t>(epoch);
  if (epoch != cached_epoch_) {
    const auto order = Rng(options_.seed, trial, "data order").Permutation(data_.count());
    order_ = at::tensor(order, at::kLong);
    cached_epoch_ = epoch;
  }
  const int64_t start = batch * options_.batch_size;
  const int64_t size = std::min(options_.batch_size, data_.count() - start);
  // A stream a batch: any batch can be made without the ones before it.
  Rng augment(StreamSeed(options_.seed, trial, "augmentation"), static_cast<uint64_t>(batch),
              "batch");
  return data_.Select(order_.narrow(0, start, size), options_.channels_last,
                      options_.augment ? &augment : nullptr);
}

}  // namespace espalier

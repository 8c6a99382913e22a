#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <set>

#include "env/base/error.h"
#include "env/data/dataset.h"
#include "tests/support/tiny_data.h"

namespace espalier {
namespace {

using testing_support::TinyImages;
using testing_support::TinySplits;

/// One image [1, H, W] cropped by hand: shifted by (down, right) with zero fill, then flipped.
Tensor CropFlipByHand(const Tensor& image, int64_t padding, int64_t down, int64_t right,
                      bool flip) {
  const Tensor padded = at::constant_pad_nd(image, {padding, padding, padding, padding}, 0);
  const Tensor crop =
      padded.narrow(1, padding + down, image.size(1)).narrow(2, padding + right, image.size(2));
  return flip ? crop.flip({2}) : crop;
}

TEST(AugmentProperty, EqualsPadCropAndFlip) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(seed);
    const Tensor images = TinyImages(6, 5, 10, seed + 1).images;
    Rng rng(seed), same(seed), again(seed);
    const Tensor result = AugmentCropFlip(images, 4, rng);
    EXPECT_TRUE(at::equal(AugmentByIndex(images, 4, again), result));
    for (int64_t i = 0; i < 6; ++i) {
      const int64_t down = static_cast<int64_t>(same.Index(9)) - 4;
      const int64_t right = static_cast<int64_t>(same.Index(9)) - 4;
      const bool flip = same.Index(2) == 1;
      EXPECT_TRUE(at::equal(result[i], CropFlipByHand(images[i], 4, down, right, flip)))
          << "image " << i << " down " << down << " right " << right << " flip " << flip;
    }
    EXPECT_EQ(rng.Next(), same.Next()) << "draws 2 offsets and 1 flip per image";
  }
}

TEST(LoaderUnit, AnEpochShowsEveryImageOnce) {
  const Splits splits = TinySplits(23, 5, 5, 4, "none");
  Loader loader(splits.train(), {.batch_size = 5, .drop_last = false, .seed = 7});
  ASSERT_EQ(loader.batches_per_epoch(), 5);  // 23 = 4 * 5 + 3
  const Tensor all = splits.train().Range(0, 23).inputs[0].flatten(1);
  std::set<int64_t> seen;
  for (int64_t batch = 0; batch < 5; ++batch) {
    const Batch got = loader.Get(0, batch);
    EXPECT_EQ(got.inputs[0].size(0), batch == 4 ? 3 : 5);
    EXPECT_TRUE(got.inputs[0].is_contiguous(at::MemoryFormat::ChannelsLast));
    for (int64_t i = 0; i < got.inputs[0].size(0); ++i) {
      const Tensor distance = (all - got.inputs[0][i].flatten()).abs().sum(1);  // [N]
      const int64_t index = distance.argmin().item<int64_t>();
      EXPECT_EQ(distance[index].item<float>(), 0);
      EXPECT_EQ(got.targets[0][i].item<int64_t>(),
                splits.train().targets[0][index].item<int64_t>());
      seen.insert(index);
    }
  }
  EXPECT_EQ(seen.size(), 23U);
}

TEST(LoaderProperty, RandomAccessEqualsSequentialAccess) {
  const Splits splits = TinySplits(40, 5, 5);
  const Loader::Options options{.batch_size = 8, .seed = 3};
  Loader sequential(splits.train(), options);
  for (int64_t epoch = 0; epoch < 4; ++epoch)
    for (int64_t batch = 0; batch < 5; ++batch) {
      SCOPED_TRACE(testing::Message() << "epoch " << epoch << " batch " << batch);
      const Batch expected = sequential.Get(epoch, batch);
      Loader fresh(splits.train(), options);
      const Batch got = fresh.Get(epoch, batch);
      EXPECT_TRUE(at::equal(expected.inputs[0], got.inputs[0]));
      EXPECT_TRUE(at::equal(expected.targets[0], got.targets[0]));
    }
}

TEST(LoaderUnit, EpochsAndSeedsDiffer) {
  const Splits splits = TinySplits(40, 5, 5);
  Loader a(splits.train(), {.batch_size = 8, .seed = 3});
  Loader b(splits.train(), {.batch_size = 8, .seed = 4});
  EXPECT_FALSE(at::equal(a.Get(0, 0).inputs[0], a.Get(1, 0).inputs[0]));
  EXPECT_FALSE(at::equal(a.Get(0, 0).inputs[0], b.Get(0, 0).inputs[0]));
}

TEST(LoaderUnit, DropLastNeedsOneFullBatch) {
  const Splits splits = TinySplits(7, 5, 5);
  EXPECT_THROW(Loader(splits.train(), {.batch_size = 8}), Error);
  EXPECT_THROW(Loader(splits.train(), {.batch_size = 0}), Error);
  EXPECT_EQ(Loader(splits.train(), {.batch_size = 3}).batches_per_epoch(), 2);
}

}  // namespace
}  // namespace espalier

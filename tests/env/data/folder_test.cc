#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <png.h>

#include <cstdio>

#include <jpeglib.h>

#include "env/base/error.h"
#include "env/base/files.h"
#include "env/data/image_file.h"
#include "env/data/splits.h"
#include "env/graph/builder.h"
#include "env/graph/io.h"
#include "tests/support/tiny_data.h"

namespace espalier {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing_support::TempFolder;

/// [3, H, W] uint8 of one colour.
Tensor Plain(int64_t height, int64_t width, int64_t red, int64_t green, int64_t blue) {
  return at::tensor({red, green, blue}, at::kLong)
      .to(at::kByte)
      .view({3, 1, 1})
      .expand({3, height, width})
      .contiguous();
}

void WritePng(const fs::path& path, const Tensor& image, png_uint_32 format = PNG_FORMAT_RGB) {
  fs::create_directories(path.parent_path());
  const Tensor pixels = image.permute({1, 2, 0}).contiguous();  // [H, W, C]
  png_image png{};
  png.version = PNG_IMAGE_VERSION;
  png.width = static_cast<png_uint_32>(image.size(2));
  png.height = static_cast<png_uint_32>(image.size(1));
  png.format = format;
  ESPALIER_CHECK(png_image_write_to_file(&png, path.c_str(), 0, pixels.data_ptr(), 0, nullptr),
                 png.message);
}

void WriteJpeg(const fs::path& path, const Tensor& image) {
  fs::create_directories(path.parent_path());
  const Tensor pixels = image.permute({1, 2, 0}).contiguous();  // [H, W, 3]
  jpeg_compress_struct info;
  jpeg_error_mgr errors;
  info.err = jpeg_std_error(&errors);
  jpeg_create_compress(&info);
  unsigned char* bytes = nullptr;
  unsigned long size = 0;
  jpeg_mem_dest(&info, &bytes, &size);
  info.image_width = static_cast<JDIMENSION>(image.size(2));
  info.image_height = static_cast<JDIMENSION>(image.size(1));
  info.input_components = 3;
  info.in_color_space = JCS_RGB;
  jpeg_set_defaults(&info);
  jpeg_set_quality(&info, 100, TRUE);
  jpeg_start_compress(&info, TRUE);
  while (info.next_scanline < info.image_height) {
    JSAMPROW row =
        pixels.data_ptr<uint8_t>() + static_cast<int64_t>(info.next_scanline) * image.size(2) * 3;
    jpeg_write_scanlines(&info, &row, 1);
  }
  jpeg_finish_compress(&info);
  WriteFileAtomic(path, {reinterpret_cast<const char*>(bytes), size});
  jpeg_destroy_compress(&info);
  std::free(bytes);
}

/// Takes images [batch, channels, 4, 4].
Network ImageNetwork(int64_t channels = 3) {
  Builder b("images", 1);
  const auto x = b.Input("x", {2, channels, 4, 4});
  return b.Finish({b.Linear("fc", b.Flatten(x), channels * 16, 2)});
}

/// Takes `left` and `right`, [batch, 4] each.
Network PairNetwork() {
  Builder b("pair", 1);
  const auto left = b.Input("left", {2, 4}), right = b.Input("right", {2, 4});
  return b.Finish({b.Linear("fc", b.Add(left, right), 4, 3)});
}

DataConfig Config(const std::string& name, const fs::path& root) {
  DataConfig config;
  config.name = name;
  config.root = root.string();
  return config;
}

/// Message and hint of the error of loading.
std::string Problem(const DataConfig& config, const Network& network) {
  try {
    Splits::Load(config, &network);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kData) << error.message();
    return error.message() + "\n" + error.hint();
  }
  return "no error";
}

TEST(ImageFileUnit, PngAndJpegGiveTheirPixels) {
  const TempFolder folder("image-file");
  const Tensor noise = at::arange(60, at::kByte).view({3, 4, 5});
  WritePng(folder.path() / "a.png", noise);
  EXPECT_TRUE(at::equal(ReadImage(folder.path() / "a.png", 3), noise));
  WritePng(folder.path() / "grey.png", noise.narrow(0, 0, 1), PNG_FORMAT_GRAY);
  const Tensor grey = ReadImage(folder.path() / "grey.png", 3);
  EXPECT_TRUE(at::equal(grey, noise.narrow(0, 0, 1).expand({3, 4, 5})));
  EXPECT_TRUE(at::equal(ReadImage(folder.path() / "grey.png", 1), noise.narrow(0, 0, 1)));
  WriteJpeg(folder.path() / "b.jpg", Plain(9, 7, 200, 100, 50));
  const Tensor jpeg = ReadImage(folder.path() / "b.jpg", 3);
  EXPECT_EQ(jpeg.sizes(), at::IntArrayRef({3, 9, 7}));
  const Tensor off = jpeg.to(at::kInt) - Plain(9, 7, 200, 100, 50).to(at::kInt);
  EXPECT_LE(off.abs().max().item<int>(), 2);  // YCbCr rounds
}

TEST(ImageFileUnit, DamagedFilesAreNamed) {
  const TempFolder folder("image-damaged");
  const Tensor image = at::randint(256, {3, 32, 32}, at::kByte);
  const fs::path png = folder.path() / "a.png", jpeg = folder.path() / "b.jpg";
  for (const fs::path& file : {png, jpeg})
    for (const double share : {0.0, 0.001, 0.05, 0.3, 0.7, 0.97}) {
      SCOPED_TRACE(testing::Message() << file << " " << share);
      WritePng(png, image);
      WriteJpeg(jpeg, image);
      fs::resize_file(file,
                      static_cast<uintmax_t>(share * static_cast<double>(fs::file_size(file))));
      try {
        ReadImage(file, 3);
        ADD_FAILURE() << "was read";
      } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::kData);
        EXPECT_THAT(error.message(), HasSubstr(file.string()));
      }
    }
}

TEST(ImageFolderUnit, FoldersAreClassesAndImagesAreFitted) {
  const TempFolder folder("classes");
  WritePng(folder.path() / "train/cat/1.png", Plain(4, 4, 10, 20, 30));
  WriteJpeg(folder.path() / "train/dog/1.JPG", Plain(16, 8, 100, 100, 100));
  WritePng(folder.path() / "train/dog/2.png", Plain(2, 3, 40, 50, 60));
  WritePng(folder.path() / "val/dog/1.png", Plain(4, 4, 1, 2, 3));
  // Red, green, blue stripes of 4 columns: the middle one stays.
  WritePng(folder.path() / "test/cat/1.png",
           at::cat({Plain(4, 4, 255, 0, 0), Plain(4, 4, 0, 255, 0), Plain(4, 4, 0, 0, 255)}, 2));
  const Network network = ImageNetwork();
  const Splits splits = Splits::Load(Config("image_folder", folder.path()), &network);
  const Dataset& train = splits.train();
  ASSERT_EQ(train.inputs[0].sizes(), at::IntArrayRef({3, 3, 4, 4}));
  EXPECT_TRUE(at::equal(train.targets[0], at::tensor({0, 1, 1}, at::kLong)));
  EXPECT_TRUE(at::equal(train.inputs[0][0], Plain(4, 4, 10, 20, 30)));
  EXPECT_TRUE(at::equal(train.inputs[0][2], Plain(4, 4, 40, 50, 60)));
  EXPECT_TRUE(at::equal(splits.validation().targets[0], at::tensor({1}, at::kLong)));
  EXPECT_TRUE(at::equal(splits.test().inputs[0][0], Plain(4, 4, 0, 255, 0)));
  EXPECT_THAT(splits.config().mean, ElementsAre(0.485, 0.456, 0.406));
  // 10 / 255 = 0.0392: (0.0392 - 0.485) / 0.229 = -1.9467
  EXPECT_NEAR(train.Range(0, 1).inputs[0].flatten()[0].item<float>(), -1.9467, 1e-4);
}

TEST(ImageFolderUnit, CropKeepsTheMiddleOfALargerImage) {
  const TempFolder folder("crop");
  Tensor frame = Plain(8, 8, 255, 255, 255);
  frame.narrow(1, 2, 4).narrow(2, 2, 4).fill_(7);  // the middle 4 x 4 of 8 x 8
  WritePng(folder.path() / "train/1.png", frame);
  WritePng(folder.path() / "test/1.png", frame);
  DataConfig config = Config("image_folder", folder.path());
  config.crop = 0.5;
  config.validation = 0;
  const Network network = ImageNetwork();
  const Splits splits = Splits::Load(config, &network);
  EXPECT_TRUE(at::equal(splits.test().inputs[0][0], Plain(4, 4, 7, 7, 7)));
  EXPECT_FALSE(splits.test().labelled());
}

TEST(ImageFolderUnit, WithoutSplitsAFixedShuffleHoldsOut) {
  const TempFolder folder("shares");
  for (int64_t i = 0; i < 20; ++i)
    WritePng(folder.path() / (i < 10 ? "a" : "b") / Str(100 + i, ".png"), Plain(4, 4, i, 0, 0));
  DataConfig config = Config("image_folder", folder.path());
  config.validation = 0.2;
  config.test = 5;
  const Network network = ImageNetwork();
  const Splits splits = Splits::Load(config, &network);
  EXPECT_EQ(splits.train().count(), 12);
  EXPECT_EQ(splits.validation().count(), 3);  // a fifth of the 15 that are not for the test
  EXPECT_EQ(splits.test().count(), 5);
  std::vector<Tensor> reds;
  for (const Dataset* part : {&splits.train(), &splits.validation(), &splits.test()})
    reds.push_back(part->inputs[0].select(1, 0).select(1, 0).select(1, 0));
  EXPECT_TRUE(at::equal(std::get<0>(at::cat(reds).to(at::kLong).sort()), at::arange(20)));
  const Tensor labels = splits.test().targets[0];
  EXPECT_GT(labels.min().item<int64_t>() + labels.max().item<int64_t>(), 0);
  EXPECT_TRUE(at::equal(labels, reds[2].ge(10).to(at::kLong))) << "labels follow their images";
  EXPECT_TRUE(at::equal(Splits::Load(config, &network).test().inputs[0], splits.test().inputs[0]));
}

TEST(ImageFolderUnit, WhatIsWrongIsNamed) {
  const TempFolder folder("wrong");
  const DataConfig config = Config("image_folder", folder.path());
  const Network network = ImageNetwork();
  EXPECT_THAT(Problem(Config("image_folder", folder.path() / "no"), network),
              HasSubstr("no such folder"));
  EXPECT_THAT(Problem(config, network), HasSubstr("no .png, .jpg or .jpeg"));
  WritePng(folder.path() / "train/cat/1.png", Plain(4, 4, 1, 2, 3));
  WritePng(folder.path() / "test/cats/1.png", Plain(4, 4, 1, 2, 3));
  EXPECT_THAT(Problem(config, network), AllOf(HasSubstr("class 'cats'"), HasSubstr("'cat'")));
  WritePng(folder.path() / "train/2.png", Plain(4, 4, 1, 2, 3));
  EXPECT_THAT(Problem(config, network), HasSubstr("images lie beside the folder 'cat'"));
  fs::remove(folder.path() / "train/2.png");
  WriteFileAtomic(folder.path() / "train/cat/2.png", "no image");
  EXPECT_THAT(Problem(config, network), HasSubstr("cat/2.png': 8 bytes that are neither"));
  try {
    const Network pair = PairNetwork();
    Splits::Load(config, &pair);
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kModel);
    EXPECT_THAT(error.hint(), HasSubstr("tensors"));
  }
}

void WriteShard(const fs::path& path, const std::vector<std::pair<std::string, Tensor>>& tensors) {
  fs::create_directories(path.parent_path());
  WriteSafetensors(path, {.tensors = tensors, .metadata = {}});
}

TEST(TensorShardsUnit, InputsByNameOrNumberInTheNetworksOrderShardAfterShard) {
  const TempFolder folder("shards");
  const Tensor left = at::randn({6, 4}), right = at::randn({6, 4});
  const Tensor target = at::arange(6, at::kInt);
  WriteShard(folder.path() / "train/a.safetensors", {{"inputs.right", right.narrow(0, 0, 4)},
                                                     {"inputs.left", left.narrow(0, 0, 4)},
                                                     {"targets.0", target.narrow(0, 0, 4)}});
  WriteShard(folder.path() / "train/b.safetensors", {{"inputs.0", left.narrow(0, 4, 2)},
                                                     {"inputs.1", right.narrow(0, 4, 2)},
                                                     {"targets.0", target.narrow(0, 4, 2)}});
  WriteShard(folder.path() / "test/a.safetensors", {{"inputs.0", left}, {"inputs.1", right}});
  DataConfig config = Config("tensors", folder.path());
  config.validation = 2;
  const Network network = PairNetwork();
  const Splits splits = Splits::Load(config, &network);
  const Batch train = splits.train().Range(0, 4), validation = splits.validation().Range(0, 2);
  EXPECT_TRUE(at::equal(train.inputs[0], left.narrow(0, 0, 4)));
  EXPECT_TRUE(at::equal(train.inputs[1], right.narrow(0, 0, 4)));
  EXPECT_TRUE(at::equal(train.targets[0], at::arange(4)));  // int64
  EXPECT_TRUE(at::equal(validation.inputs[1], right.narrow(0, 4, 2)));
  EXPECT_EQ(splits.test().count(), 6);
  EXPECT_FALSE(splits.test().labelled());
}

TEST(TensorShardsUnit, WhatDoesNotFitNamesShardAndTensor) {
  const TempFolder folder("shards-wrong");
  const Network network = PairNetwork();
  const Tensor x = at::randn({6, 4});
  const auto problem = [&](const std::vector<std::pair<std::string, Tensor>>& tensors) {
    WriteShard(folder.path() / "b.safetensors", tensors);
    return Problem(Config("tensors", folder.path()), network);
  };
  EXPECT_THAT(Problem(Config("tensors", folder.path()), network), HasSubstr("no .safetensors in"));
  EXPECT_THAT(problem({{"inputs.0", x}}),
              AllOf(HasSubstr("b.safetensors"), HasSubstr("lacks input 1 of the network"),
                    HasSubstr("'inputs.right'")));
  EXPECT_THAT(problem({{"inputs.lift", x}, {"inputs.right", x}}),
              AllOf(HasSubstr("'inputs.lift'"), HasSubstr("did you mean 'inputs.left'")));
  EXPECT_THAT(problem({{"x", x}}), HasSubstr("tensor 'x' is neither"));
  EXPECT_THAT(problem({{"inputs.0", x}, {"inputs.2", x}}), HasSubstr("'inputs.2' is neither"));
  EXPECT_THAT(problem({{"inputs.0", x}, {"inputs.left", x}, {"inputs.1", x}}),
              HasSubstr("by name and by number"));
  EXPECT_THAT(problem({{"inputs.0", x}, {"inputs.1", x.narrow(0, 0, 5)}}),
              HasSubstr("inputs.1 has 5 samples, inputs.0 has 6"));
  EXPECT_THAT(problem({{"inputs.0", x}, {"inputs.1", x}, {"targets.0", at::zeros({7})}}),
              HasSubstr("targets.0 has 7 samples"));
  EXPECT_THAT(problem({{"inputs.0", x}, {"inputs.1", x}, {"targets.1", x}}),
              HasSubstr("not numbered 0 to 0"));
  EXPECT_THAT(problem({{"inputs.0", x}, {"inputs.1", at::zeros({6, 5})}}),
              AllOf(HasSubstr("'inputs.1' is [6, 5]"), HasSubstr("[2, 4]")));
  EXPECT_THAT(problem({{"inputs.0", x}, {"inputs.1", x.to(at::kDouble)}}),
              HasSubstr("is Double, the network takes Float"));
  EXPECT_THAT(problem({{"inputs.0", x.narrow(0, 0, 0)}, {"inputs.1", x}}),
              HasSubstr("[samples, ...] is needed"));
  WriteShard(folder.path() / "a.safetensors", {{"inputs.0", x}, {"inputs.1", x}});
  EXPECT_THAT(problem({{"inputs.0", x}, {"inputs.1", x}, {"targets.0", x}}),
              HasSubstr("1 targets, a.safetensors has 0"));
}

TEST(TensorShardsUnit, BytesAreImagesOnceTheyAreNormalised) {
  const TempFolder folder("shards-bytes");
  WriteShard(folder.path() / "a.safetensors",
             {{"inputs.0", at::full({9, 3, 4, 4}, 51, at::kByte)}});
  DataConfig config = Config("tensors", folder.path());
  const Network network = ImageNetwork();
  EXPECT_THAT(Problem(config, network), HasSubstr("data.mean and data.std"));
  config.mean = {0, 0, 0.2};
  config.std = {1, 0.5, 1};
  config.test = 0.25;
  const Splits splits = Splits::Load(config, &network);
  EXPECT_EQ(splits.test().count(), 2);
  const Tensor pixel = splits.test().Range(0, 1).inputs[0].select(3, 0).select(2, 0).flatten();
  EXPECT_TRUE(at::allclose(pixel, at::tensor({0.2F, 0.4F, 0.0F}), 1e-6, 1e-6)) << pixel;
}

TEST(TensorShardsUnit, TooFewSamplesToHoldOutIsSaid) {
  const TempFolder folder("shards-few");
  WriteShard(folder.path() / "a.safetensors",
             {{"inputs.0", at::randn({4, 4})}, {"inputs.1", at::randn({4, 4})}});
  DataConfig config = Config("tensors", folder.path());
  config.test = 4;
  const Network network = PairNetwork();
  EXPECT_THROW(Splits::Load(config, &network), Error);
}

}  // namespace
}  // namespace espalier

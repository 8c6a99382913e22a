#include "env/data/splits.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "env/base/error.h"
#include "env/base/files.h"
#include "env/data/formats.h"
#include "tests/support/tiny_data.h"

namespace espalier {
namespace {

using testing::HasSubstr;
using testing_support::TempFolder;
using testing_support::TinyImages;
using testing_support::WriteTinyCifar10;

DataConfig TinyConfig(const TempFolder& folder, int64_t validation) {
  DataConfig config;
  config.root = folder.path().string();
  config.validation = static_cast<double>(validation);
  return config;
}

/// The error of loading; fails the test when there is none.
Error LoadError(const DataConfig& config) {
  try {
    Splits::Load(config);
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "loading did not fail";
  return Error(ErrorKind::kInternal, "");
}

void Truncate(const std::filesystem::path& path, double share) {
  std::filesystem::resize_file(
      path, static_cast<uintmax_t>(share * static_cast<double>(std::filesystem::file_size(path))));
}

TEST(DatasetUnit, PngsGiveBackTheImagesInFileOrder) {
  const TempFolder folder("png");
  WriteTinyCifar10(folder.path(), 20, 10);
  const Splits splits = Splits::Load(TinyConfig(folder, 4));
  const ImageSet written = TinyImages(20, 32, 10, 1);
  // The last 4 of 20 training images are validation, whatever the seed.
  EXPECT_TRUE(at::equal(splits.train().inputs[0], written.images.narrow(0, 0, 16)));
  EXPECT_TRUE(at::equal(splits.validation().inputs[0], written.images.narrow(0, 16, 4)));
  EXPECT_TRUE(at::equal(splits.validation().targets[0], written.labels.narrow(0, 16, 4)));
  EXPECT_TRUE(at::equal(splits.test().inputs[0], TinyImages(10, 32, 10, 3).images));
}

TEST(DatasetUnit, LimitCutsTrainingImagesOnly) {
  const TempFolder folder("limit");
  WriteTinyCifar10(folder.path(), 20, 10);
  DataConfig config = TinyConfig(folder, 4);
  config.limit = 7;
  const Splits splits = Splits::Load(config);
  EXPECT_EQ(splits.train().count(), 7);
  EXPECT_EQ(splits.validation().count(), 4);
  EXPECT_EQ(splits.test().count(), 10);
}

TEST(DatasetUnit, NormalizeIsPixelMinusMeanOverStd) {
  DataConfig config;
  config.mean = {0.5, 0.25, 0};
  config.std = {0.5, 0.25, 2};
  const ImageSet set{at::full({1, 3, 1, 1}, 51, at::kByte), at::zeros({1}, at::kLong)};
  const Splits splits(config, set, set, set);
  const Tensor normal = splits.test().Range(0, 1).inputs[0].flatten();
  // 51 / 255 = 0.2: (0.2 - 0.5) / 0.5, (0.2 - 0.25) / 0.25, 0.2 / 2.
  EXPECT_TRUE(at::allclose(normal, at::tensor({-0.6F, -0.2F, 0.1F}), 1.3e-6, 1e-6)) << normal;
}

TEST(DatasetUnit, DefaultsOfTheDataSetFillMeanAndStd) {
  const Splits splits = testing_support::TinySplits(10, 5, 5);
  EXPECT_THAT(splits.config().mean, testing::ElementsAre(0.4914, 0.4822, 0.4465));
  EXPECT_THAT(splits.config().std, testing::ElementsAre(0.2023, 0.1994, 0.2010));
}

TEST(DatasetUnit, MissingDataSetNamesTheCommandThatFetchesIt) {
  const TempFolder folder("missing");
  const Error error = LoadError(TinyConfig(folder, 4));
  EXPECT_EQ(error.kind(), ErrorKind::kData);
  EXPECT_THAT(error.message(), HasSubstr(folder.path().string()));
  EXPECT_THAT(error.hint(), HasSubstr("scripts/data cifar10"));
}

TEST(DatasetUnit, DamagedPngNamesFileExpectedAndFound) {
  const TempFolder folder("damaged");
  const auto file = folder.path() / "cifar10" / "data_batch_3.png";
  for (const double share : {0.0, 0.001, 0.3, 0.7, 0.98}) {
    SCOPED_TRACE(share);
    WriteTinyCifar10(folder.path(), 20, 10);
    Truncate(file, share);
    const Error error = LoadError(TinyConfig(folder, 4));
    EXPECT_EQ(error.kind(), ErrorKind::kData);
    EXPECT_THAT(error.message(), HasSubstr(file.string()));
    EXPECT_THAT(error.message(), HasSubstr("expected an RGB PNG of 1024 x 4 pixels, found "));
    EXPECT_THAT(error.hint(), HasSubstr("scripts/data cifar10"));
  }
  WriteTinyCifar10(folder.path(), 20, 10);
  std::string bytes = ReadFile(file);
  bytes[bytes.size() / 2] ^= 0x10;  // breaks the CRC of the pixels
  WriteFileAtomic(file, bytes);
  EXPECT_THAT(LoadError(TinyConfig(folder, 4)).message(), HasSubstr(file.string()));
}

TEST(DatasetUnit, PngWithTooFewRowsOrLabelsIsRefused) {
  const TempFolder folder("rows");
  WriteTinyCifar10(folder.path(), 20, 10);
  const auto file = folder.path() / "cifar10" / "test_batch.png";
  testing_support::WriteRowPng(file, TinyImages(9, 32).images);
  const Error error = LoadError(TinyConfig(folder, 4));
  EXPECT_THAT(error.message(), HasSubstr("1024 x 10 pixels, found 1024 x 9 pixels"));
  const auto labels = folder.path() / "cifar10" / "train_lables.json";
  for (const char* text : {"[1,2,3]", "[1,2", "{}", "[1,2,3,4,\"x\"]", "[1,2,3,4,10]", "[]"}) {
    SCOPED_TRACE(text);
    WriteFileAtomic(labels, text);
    const Error bad = LoadError(TinyConfig(folder, 4));
    EXPECT_EQ(bad.kind(), ErrorKind::kData);
    EXPECT_THAT(bad.message(), HasSubstr(labels.string()));
  }
}

TEST(DatasetUnit, OnlyPlainRgbPngsAreRead) {
  const TempFolder folder("kinds");
  const auto file = folder.path() / "row.png";
  const auto message = [&] {
    try {
      ReadRowPng(file, 2, 4, "fetch");
    } catch (const Error& error) {
      return error.message();
    }
    return std::string("no error");
  };
  testing_support::WriteRowPng(file, TinyImages(2, 4).images);
  EXPECT_EQ(message(), "no error");
  const std::string good = ReadFile(file);
  const auto changed = [&](size_t at, char value) {
    std::string bytes = good;
    bytes[at] = value;
    WriteFileAtomic(file, bytes);
    return message();
  };
  EXPECT_THAT(changed(24, 16), HasSubstr("another kind of pixel"));  // bits a channel
  EXPECT_THAT(changed(25, 6), HasSubstr("another kind of pixel"));   // with alpha
  EXPECT_THAT(changed(28, 1), HasSubstr("interlaced"));
  EXPECT_THAT(changed(33, 1), HasSubstr("reaches beyond the file"));  // length of the next chunk
  const std::string text("\0\0\0\1zTXtaCCCC", 13);
  WriteFileAtomic(file, good.substr(0, 33) + text + good.substr(33));
  EXPECT_THAT(message(), HasSubstr("a chunk zTXt at byte 33"));
}

TEST(FormatsUnit, LabelsNestedByTheMillionAreRefused) {
  const TempFolder folder("deep");
  const auto file = folder.path() / "labels.json";
  WriteFileAtomic(file, std::string(1'000'000, '[') + std::string(1'000'000, ']'));
  EXPECT_THROW(ReadLabelJson(file, 10, "fetch"), Error);
  WriteFileAtomic(file, "[1, 18446744073709551615]");
  EXPECT_THROW(ReadLabelJson(file, 10, "fetch"), Error);
}

TEST(DatasetUnit, ValidationMustLeaveTrainingImages) {
  const TempFolder folder("validation");
  WriteTinyCifar10(folder.path(), 20, 10);
  EXPECT_EQ(LoadError(TinyConfig(folder, 20)).kind(), ErrorKind::kConfig);
}

TEST(DatasetUnit, UnknownDataSetIsRefusedWithASuggestion) {
  DataConfig config;
  config.name = "cifar01";
  EXPECT_THAT(LoadError(config).hint(), HasSubstr("cifar10"));
}

TEST(FormatsUnit, CifarBinaryTakesTheLastLabelByte) {
  const TempFolder folder("binary");
  const auto file = folder.path() / "train.bin";
  std::string bytes;
  for (int record = 0; record < 3; ++record) {
    bytes += static_cast<char>(19);           // coarse
    bytes += static_cast<char>(70 + record);  // fine
    for (int i = 0; i < 3 * 1024; ++i) bytes += static_cast<char>((i + record) % 256);
  }
  WriteFileAtomic(file, bytes);
  const ImageSet set = ReadCifarBinary(file, 3, 2, 100, "fetch");
  EXPECT_TRUE(at::equal(set.labels, at::tensor({70, 71, 72}, at::kLong)));
  // Planes of 1024 bytes: channel 1, row 2, column 3 is byte 1024 + 67 = 1091; 1091 % 256 = 67.
  EXPECT_EQ(set.images[0][1][2][3].item<int64_t>(), 67);
  EXPECT_EQ(set.images[2][1][2][3].item<int64_t>(), 69);
  EXPECT_THROW(ReadCifarBinary(file, 4, 2, 100, "fetch"), Error);
  EXPECT_THROW(ReadCifarBinary(file, 3, 2, 72, "fetch"), Error);  // label 72 of 72 classes
}

TEST(FormatsUnit, IdxPairIsReadAndChecked) {
  const TempFolder folder("idx");
  const auto images = folder.path() / "images", labels = folder.path() / "labels";
  const auto head = [](std::initializer_list<uint32_t> words) {
    std::string bytes;
    for (const uint32_t word : words)
      for (int shift = 24; shift >= 0; shift -= 8) bytes += static_cast<char>(word >> shift & 255);
    return bytes;
  };
  const std::string good = head({2051, 2, 2, 3}) + std::string("abcdefABCDEF");
  const std::string good_labels = head({2049, 2}) + std::string("\x07\x01", 2);
  WriteFileAtomic(images, good);
  WriteFileAtomic(labels, good_labels);
  const ImageSet set = ReadIdxPair(images, labels, 10, "fetch");
  EXPECT_EQ(set.images.sizes(), at::IntArrayRef({2, 1, 2, 3}));
  EXPECT_EQ(set.images[1][0][1][0].item<int64_t>(), 'D');
  EXPECT_TRUE(at::equal(set.labels, at::tensor({7, 1}, at::kLong)));
  for (const std::string& bad :
       {std::string("abc"), good.substr(0, 20), good + "x", head({2051, 0xffffffff, 2, 3}),
        head({2051, 0xffffffff, 0xffffffff, 0xffffffff}), head({2050, 2, 2, 3}) + "abcdefABCDEF"}) {
    WriteFileAtomic(images, bad);
    EXPECT_THROW(ReadIdxPair(images, labels, 10, "fetch"), Error);
  }
  WriteFileAtomic(images, good);
  for (const std::string& bad : {good_labels.substr(0, 9), head({2051, 2}) + "\x01\x01",
                                 head({2049, 3}) + "\x01\x01", head({2049, 2}) + "\x01\x0a"}) {
    WriteFileAtomic(labels, bad);
    EXPECT_THROW(ReadIdxPair(images, labels, 10, "fetch"), Error);
  }
}

}  // namespace
}  // namespace espalier

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "env/base/files.h"
#include "env/graph/io.h"
#include "tests/env/graph/io_testing.h"

namespace espalier {
namespace {

using testing::AllOf;
using testing::HasSubstr;

/// A file of this header (its length filled in) and this many data bytes.
std::string FileOf(const std::string& header, size_t data_bytes) {
  const uint64_t length = header.size();
  std::string bytes(8, '\0');
  for (int i = 0; i < 8; ++i) bytes[static_cast<size_t>(i)] = static_cast<char>(length >> (8 * i));
  return bytes + header + std::string(data_bytes, '\3');
}

/// The error of reading these bytes; every message must name the file.
std::string ErrorOfBytes(const std::string& bytes) {
  const TempFolder folder;
  WriteBytes(folder / "bad.safetensors", bytes);
  const std::string error = ModelErrorOf([&] { ReadSafetensors(folder / "bad.safetensors"); });
  EXPECT_THAT(error, HasSubstr("bad.safetensors"));
  return error;
}

std::string ErrorOfHeader(const std::string& header, size_t data_bytes) {
  return ErrorOfBytes(FileOf(header, data_bytes));
}

TEST(SafetensorsUnit, RoundTripKeepsNamesShapesDtypesBytesAndMetadata) {
  const TempFolder folder;
  const at::Tensor flags = at::tensor({1, 0, 1}).to(at::kBool);
  const TensorFile file{{{"flags", flags},
                         {"half", at::randn({3, 5}).to(at::kHalf)},
                         {"weight", at::randn({4, 3}).t()},  // not contiguous
                         {"bfloat", at::randn({2}).to(at::kBFloat16)},
                         {"scalar", at::tensor(7, at::kLong)},
                         {"none", at::empty({0, 3})},
                         {"double", at::randn({2, 2}, at::kDouble)}},
                        {{"made by", "a test"}}};
  WriteSafetensors(folder / "a.safetensors", file);
  const TensorFile read = ReadSafetensors(folder / "a.safetensors");
  EXPECT_EQ(read.metadata, file.metadata);
  ASSERT_EQ(read.tensors.size(), file.tensors.size());
  const std::map<std::string, at::Tensor> by_name(read.tensors.begin(), read.tensors.end());
  for (const auto& [name, tensor] : file.tensors) {
    ASSERT_TRUE(by_name.contains(name)) << name;
    EXPECT_EQ(by_name.at(name).scalar_type(), tensor.scalar_type()) << name;
    EXPECT_TRUE(at::equal(by_name.at(name), tensor)) << name;
  }
}

TEST(SafetensorsUnit, ReadsTheLayoutOfTheFormatDescription) {
  // By hand: two little-endian floats, 1.0f = 00 00 80 3f and -2.0f = 00 00 00 c0.
  const std::string header = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  std::string bytes = FileOf(header, 0) + std::string("\x00\x00\x80\x3f\x00\x00\x00\xc0", 8);
  const TempFolder folder;
  WriteBytes(folder / "a.safetensors", bytes);
  const TensorFile read = ReadSafetensors(folder / "a.safetensors");
  EXPECT_TRUE(at::equal(read.tensors.at(0).second, at::tensor({1.0f, -2.0f})));
}

TEST(SafetensorsUnit, SortsTheTensorsSoThatAllAreAligned) {
  const TempFolder folder;
  WriteSafetensors(
      folder / "a.safetensors",
      {{{"flag", at::ones({1}, at::kBool)}, {"long", at::tensor({1}, at::kLong)}}, {}});
  const std::string bytes = ReadFile(folder / "a.safetensors");
  EXPECT_EQ((bytes.size() - 9) % 8, 0u);  // prefix and header fill whole words
  EXPECT_EQ(ReadSafetensors(folder / "a.safetensors").tensors.front().first, "long");
}

TEST(SafetensorsUnit, RefusesBadHeaderLengths) {
  EXPECT_THAT(ErrorOfBytes("abc"), HasSubstr("header length"));
  EXPECT_THAT(ErrorOfBytes(std::string(8, '\xff')), HasSubstr("at most 100000000"));
  EXPECT_THAT(ErrorOfBytes(std::string("\x40\0\0\0\0\0\0\0{}", 10)), HasSubstr("10 in all"));
  EXPECT_THAT(ErrorOfBytes(std::string(8, '\0')), HasSubstr("start with '{'"));
}

TEST(SafetensorsUnit, RefusesBrokenHeaders) {
  EXPECT_THAT(ErrorOfHeader("[]", 0), HasSubstr("start with '{'"));
  EXPECT_THAT(ErrorOfHeader("{\"a\":", 0), HasSubstr("broken"));
  EXPECT_THAT(ErrorOfHeader("{\"\xff\":1}", 0), HasSubstr("broken"));
  EXPECT_THAT(ErrorOfHeader("{\"a\":[[[[[[]]]]]]}", 0), HasSubstr("nested deeper"));
  EXPECT_THAT(ErrorOfHeader(R"({"a":3})", 0), HasSubstr("tensor 'a'"));
  EXPECT_THAT(ErrorOfHeader(R"({"__metadata__":{"a":1}})", 0), HasSubstr("not a string"));
  EXPECT_THAT(ErrorOfHeader(R"({"a":{"dtype":"F32","shape":[0]}})", 0),
              AllOf(HasSubstr("'a'"), HasSubstr("'data_offsets' is missing")));
}

TEST(SafetensorsUnit, RefusesDuplicates) {
  EXPECT_THAT(ErrorOfHeader(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                            R"("a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
                            2),
              HasSubstr("'a' appears twice"));
  const TempFolder folder;
  const at::Tensor one = at::ones({1});
  EXPECT_THAT(ModelErrorOf([&] {
                WriteSafetensors(folder / "a.safetensors", {{{"a", one}, {"a", one}}, {}});
              }),
              HasSubstr("'a' is taken"));
  EXPECT_FALSE(std::filesystem::exists(folder / "a.safetensors"));
}

TEST(SafetensorsUnit, RefusesOffsetsOutsideTheData) {
  EXPECT_THAT(ErrorOfHeader(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", 3),
              AllOf(HasSubstr("'a'"), HasSubstr("ends at byte 4"), HasSubstr("which has 3")));
  EXPECT_THAT(ErrorOfHeader(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[4,0]}})", 4),
              HasSubstr("before its begin 4"));
  EXPECT_THAT(ErrorOfHeader(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[-1,0]}})", 4),
              HasSubstr("two whole numbers"));
  EXPECT_THAT(ErrorOfHeader(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0.5,1]}})", 4),
              HasSubstr("two whole numbers"));
}

TEST(SafetensorsUnit, RefusesOverlapsHolesAndTrailingBytes) {
  const std::string a = R"("a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]})";
  EXPECT_THAT(
      ErrorOfHeader("{" + a + R"(,"b":{"dtype":"U8","shape":[4],"data_offsets":[3,7]}})", 7),
      AllOf(HasSubstr("'b' overlaps"), HasSubstr("byte 3")));
  EXPECT_THAT(
      ErrorOfHeader("{" + a + R"(,"b":{"dtype":"U8","shape":[4],"data_offsets":[5,9]}})", 9),
      AllOf(HasSubstr("bytes 4 to 5"), HasSubstr("'b'")));
  EXPECT_THAT(ErrorOfHeader("{" + a + "}", 6), HasSubstr("bytes 4 to 6"));
}

TEST(SafetensorsUnit, RefusesShapesThatDoNotFit) {
  EXPECT_THAT(ErrorOfHeader(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4),
              AllOf(HasSubstr("'a'"), HasSubstr("takes 8 bytes"), HasSubstr("hold 4")));
  EXPECT_THAT(ErrorOfHeader(R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4),
              HasSubstr("whole numbers >= 0"));
  EXPECT_THAT(
      ErrorOfHeader(R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}})",
                    4),
      HasSubstr("overflows"));
  EXPECT_THAT(  // no elements, but its strides would not fit either
      ErrorOfHeader(
          R"({"a":{"dtype":"F32","shape":[0,4294967296,4294967296],"data_offsets":[0,0]}})", 0),
      HasSubstr("overflows"));
}

TEST(SafetensorsUnit, RefusesUnknownDtypesAndBadBooleans) {
  EXPECT_THAT(ErrorOfHeader(R"({"a":{"dtype":"F23","shape":[1],"data_offsets":[0,4]}})", 4),
              AllOf(HasSubstr("'a'"), HasSubstr("'F23'"), HasSubstr("F32")));
  EXPECT_THAT(ErrorOfHeader(R"({"a":{"dtype":"BOOL","shape":[1],"data_offsets":[0,1]}})", 1),
              HasSubstr("is no boolean (3)"));
}

TEST(SafetensorsProperty, EveryTruncationIsAnErrorThatNamesTheFile) {
  const TempFolder folder;
  WriteSafetensors(folder / "a.safetensors",
                   {{{"a", at::ones({3})}, {"b", at::ones({2, 2})}}, {{"k", "v"}}});
  const std::string bytes = ReadFile(folder / "a.safetensors");
  for (size_t length = 0; length < bytes.size(); ++length) {
    WriteBytes(folder / "cut.safetensors", bytes.substr(0, length));
    EXPECT_THAT(ModelErrorOf([&] { ReadSafetensors(folder / "cut.safetensors"); }),
                HasSubstr("cut.safetensors"))
        << length;
  }
}

TEST(SafetensorsUnit, MissingFileIsAnIoError) {
  try {
    ReadSafetensors("/nonexistent/weights.safetensors");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kIo);
    EXPECT_THAT(error.message(), HasSubstr("/nonexistent/weights.safetensors"));
  }
}

ParameterStore SmallStore(float value) {
  ParameterStore store;
  store.Add("conv1.weight", at::full({2, 3}, value), StoreKind::kParameter);
  store.Add("bn1.num_batches_tracked", at::tensor(5, at::kLong), StoreKind::kBuffer);
  store.Add("conv2.weight", at::full({4}, value), StoreKind::kParameter);
  store.Tie("head.weight", "conv2.weight");
  return store;
}

TEST(WeightsUnit, LoadRestoresWhatWasSavedTiesOnce) {
  const TempFolder folder;
  SaveWeights(folder / "w.safetensors", SmallStore(3), {{"network", "small"}});
  EXPECT_EQ(ReadSafetensors(folder / "w.safetensors").tensors.size(), 3u);
  ParameterStore store = SmallStore(0);
  LoadWeights(folder / "w.safetensors", store);
  EXPECT_TRUE(at::equal(store.Get("conv1.weight"), at::full({2, 3}, 3.0f)));
  EXPECT_TRUE(at::equal(store.Get("head.weight"), at::full({4}, 3.0f)));
  EXPECT_EQ(store.Get("head.weight").data_ptr(), store.Get("conv2.weight").data_ptr());
}

TEST(WeightsUnit, AnyNameOfATiedTensorWillDoAndCountersMayBeAbsent) {
  const TempFolder folder;
  WriteSafetensors(folder / "w.safetensors",
                   {{{"conv1.weight", at::ones({2, 3})}, {"head.weight", at::ones({4})}}, {}});
  ParameterStore store = SmallStore(0);
  LoadWeights(folder / "w.safetensors", store);
  EXPECT_TRUE(at::equal(store.Get("conv2.weight"), at::ones({4})));
  EXPECT_EQ(store.Get("bn1.num_batches_tracked").item<int64_t>(), 5);
}

TEST(WeightsUnit, ListsMissingUnexpectedAndMisshapenNames) {
  const TempFolder folder;
  WriteSafetensors(folder / "w.safetensors",
                   {{{"conv1.wieght", at::ones({2, 3})}, {"conv2.weight", at::ones({5})}}, {}});
  ParameterStore store = SmallStore(0);
  const std::string error = ModelErrorOf([&] { LoadWeights(folder / "w.safetensors", store); });
  EXPECT_THAT(error, HasSubstr("1 missing: conv1.weight"));
  EXPECT_THAT(error, HasSubstr("1 unexpected: conv1.wieght (near conv1.weight)"));
  EXPECT_THAT(error, HasSubstr("1 misshapen: conv2.weight is Float [5], expected Float [4]"));
  EXPECT_THAT(error, HasSubstr("weights of another network?"));
  EXPECT_THAT(error, HasSubstr("w.safetensors"));
  EXPECT_EQ(store.Get("conv2.weight").sum().item<float>(), 0);  // nothing half loaded
}

TEST(WeightsUnit, TiedNamesMustAgree) {
  const TempFolder folder;
  WriteSafetensors(folder / "w.safetensors", {{{"conv1.weight", at::ones({2, 3})},
                                               {"conv2.weight", at::ones({4})},
                                               {"head.weight", at::zeros({4})}},
                                              {}});
  ParameterStore store = SmallStore(0);
  EXPECT_THAT(ModelErrorOf([&] { LoadWeights(folder / "w.safetensors", store); }),
              HasSubstr("tied"));
}

}  // namespace
}  // namespace espalier

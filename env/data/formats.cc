#include "env/data/formats.h"
#include "env/data/png_image.h"

#include <ATen/ATen.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "env/base/error.h"
#include "env/base/files.h"
#include "env/graph/checked_json.h"

namespace espalier {
namespace {

constexpr int64_t kCifarSize = 32;
constexpr int64_t kCifarBytes = 3 * kCifarSize * kCifarSize;
constexpr uint64_t kMaxFileBytes = uint64_t{1} << 30;     // the largest file read here has 180 MB
constexpr uint32_t kIdxImages = 2051, kIdxLabels = 2049;  // 0x0803, 0x0801: uint8, 3 or 1 axes

[[noreturn]] void Fail(const std::filesystem::path& path, const std::string& expected,
                       const std::string& found, const std::string& fetch) {
  throw Error(ErrorKind::kData,
              Str("data file '", path.string(), "': expected ", expected, ", found ", found),
              Str("fetch the data set again: ", fetch));
}

std::string ReadData(const std::filesystem::path& path, const std::string& expected,
                     const std::string& fetch) {
  if (!std::filesystem::is_regular_file(path)) Fail(path, expected, "no such file", fetch);
  return ReadFile(path, kMaxFileBytes);
}

void CheckLabels(const Tensor& labels, int64_t classes, const std::filesystem::path& path,
                 const std::string& fetch) {
  if (labels.numel() == 0) Fail(path, "at least one label", "none", fetch);
  const Tensor bad = labels.lt(0).logical_or_(labels.ge(classes)).nonzero();
  if (bad.numel() == 0) return;
  const auto first = bad[0].item<int64_t>();
  Fail(path, Str("labels 0 to ", classes - 1),
       Str("label ", labels[first].item<int64_t>(), " at entry ", first), fetch);
}

uint32_t BigEndian(const std::string& bytes, size_t offset) {
  uint32_t value = 0;
  for (size_t i = 0; i < 4; ++i) value = value << 8 | static_cast<unsigned char>(bytes[offset + i]);
  return value;
}

/// Why libpng should not see this file, or "". The reader takes plain 8-bit RGB and nothing else:
/// libpng would unpack texts and colour profiles of any size, and convert colours silently.
std::string PngProblem(const std::string& bytes, uint64_t width, uint64_t rows) {
  constexpr size_t kSignature = 8, kHeader = 13, kFrame = 12;  // a frame: length, type, checksum
  constexpr std::string_view kRgb8("\x08\x02\0\0\0", 5);       // depth, colour, and three methods
  constexpr uint64_t kMostUnpacked = 1032;                     // a byte of deflate gives no more
  uint64_t data = 0;
  for (size_t at = kSignature; at < bytes.size();) {
    const uint64_t length = bytes.size() - at < kFrame ? UINT64_MAX : BigEndian(bytes, at);
    if (length > bytes.size() - at - std::min(bytes.size() - at, kFrame))
      return Str("a chunk at byte ", at, " that reaches beyond the file");
    const std::string type = bytes.substr(at + 4, 4);
    if (at == kSignature && (type != "IHDR" || length != kHeader))
      return Str("a header chunk of type '", type, "' and ", length, " bytes");
    if (at == kSignature && bytes.substr(at + 16, 5) != kRgb8)
      return "another kind of pixel or an interlaced image";
    for (const char* refused : {"zTXt", "iTXt", "iCCP", "gAMA", "cHRM", "tRNS"})
      if (type == refused)
        return Str("a chunk ", type, " at byte ", at, ", which is not supported");
    if (type == "IDAT") data += length;
    at += kFrame + length;
  }
  if (data * kMostUnpacked < width * 3 * rows)
    return Str(data, " bytes of pixels, too few to unpack to the image");
  return "";
}

}  // namespace

Tensor ReadRowPng(const std::filesystem::path& path, int64_t rows, int64_t size,
                  const std::string& fetch) {
  const int64_t width = size * size;
  const std::string expected = Str("an RGB PNG of ", width, " x ", rows, " pixels");
  const std::string bytes = ReadData(path, expected, fetch);
  if (bytes.size() < 8 || png_sig_cmp(reinterpret_cast<png_const_bytep>(bytes.data()), 0, 8) != 0)
    Fail(path, expected, Str(bytes.size(), " bytes that are no PNG"), fetch);
  const std::string problem =
      PngProblem(bytes, static_cast<uint64_t>(width), static_cast<uint64_t>(rows));
  if (!problem.empty()) Fail(path, expected, problem, fetch);
  PngImage png;
  if (!png_image_begin_read_from_memory(&png.image, bytes.data(), bytes.size()))
    Fail(path, expected, Str(bytes.size(), " bytes that are no PNG (", png.image.message, ")"),
         fetch);
  if (png.image.width != width || png.image.height != rows)
    Fail(path, expected, Str(png.image.width, " x ", png.image.height, " pixels"), fetch);
  png.image.format = PNG_FORMAT_RGB;
  Tensor pixels = at::empty({rows, size, size, 3}, at::kByte);  // [N, H, W, C], as in the file
  if (!png_image_finish_read(&png.image, nullptr, pixels.data_ptr(),
                             static_cast<png_int_32>(width * 3), nullptr))
    Fail(path, expected,
         Str("a truncated or corrupt PNG of ", bytes.size(), " bytes (", png.image.message, ")"),
         fetch);
  return pixels.permute({0, 3, 1, 2}).contiguous();
}

Tensor ReadLabelJson(const std::filesystem::path& path, int64_t classes, const std::string& fetch) {
  const std::string expected = Str("a JSON array of labels 0 to ", classes - 1);
  const std::string bytes = ReadData(path, expected, fetch);
  std::vector<int64_t> labels;
  try {
    const auto json = ParseCheckedJson(bytes);
    if (!json.is_array()) throw Error(ErrorKind::kData, "no array");
    labels.reserve(json.size());
    for (const auto& item : json) labels.push_back(IntOf(item));
  } catch (const Error& error) {
    Fail(path, expected,
         Str(bytes.size(), " bytes whose entry ", labels.size(), " is wrong: ", error.message()),
         fetch);
  }
  Tensor result = at::tensor(labels, at::kLong);  // [N]
  CheckLabels(result, classes, path, fetch);
  return result;
}

ImageSet ReadCifarBinary(const std::filesystem::path& path, int64_t records, int64_t label_bytes,
                         int64_t classes, const std::string& fetch) {
  const int64_t record_bytes = label_bytes + kCifarBytes;
  const std::string expected =
      Str(records * record_bytes, " bytes (", records, " records of ", record_bytes, ")");
  std::string bytes = ReadData(path, expected, fetch);
  if (static_cast<int64_t>(bytes.size()) != records * record_bytes)
    Fail(path, expected, Str(bytes.size(), " bytes"), fetch);
  const Tensor all = at::from_blob(bytes.data(), {records, record_bytes}, at::kByte);
  ImageSet set;
  set.labels = all.select(1, label_bytes - 1).to(at::kLong);  // CIFAR-100: coarse, then fine
  set.images = all.narrow(1, label_bytes, kCifarBytes)
                   .contiguous()
                   .view({records, 3, kCifarSize, kCifarSize});
  if (set.images.data_ptr() == all.data_ptr()) set.images = set.images.clone();
  CheckLabels(set.labels, classes, path, fetch);
  return set;
}

ImageSet ReadIdxPair(const std::filesystem::path& images, const std::filesystem::path& labels,
                     int64_t classes, const std::string& fetch) {
  std::string pixels = ReadData(images, "an idx file of images", fetch);
  if (pixels.size() < 16 || BigEndian(pixels, 0) != kIdxImages)
    Fail(images, Str("an idx header with magic number ", kIdxImages),
         pixels.size() < 16 ? Str(pixels.size(), " bytes") : Str("magic ", BigEndian(pixels, 0)),
         fetch);
  const int64_t count = BigEndian(pixels, 4), height = BigEndian(pixels, 8),
                width = BigEndian(pixels, 12);
  constexpr int64_t kMaxSide = 1024;  // keeps count * height * width far from overflow
  if (height < 1 || height > kMaxSide || width < 1 || width > kMaxSide)
    Fail(images, Str("sides of 1 to ", kMaxSide), Str(height, " x ", width), fetch);
  if (static_cast<int64_t>(pixels.size()) != 16 + count * height * width)
    Fail(images,
         Str(16 + count * height * width, " bytes (", count, " images of ", height, " x ", width,
             ")"),
         Str(pixels.size(), " bytes"), fetch);
  std::string classes_of = ReadData(labels, "an idx file of labels", fetch);
  const std::string expected =
      Str(8 + count, " bytes with magic number ", kIdxLabels, " and ", count, " labels");
  if (static_cast<int64_t>(classes_of.size()) != 8 + count)
    Fail(labels, expected, Str(classes_of.size(), " bytes"), fetch);
  if (BigEndian(classes_of, 0) != kIdxLabels || BigEndian(classes_of, 4) != count)
    Fail(labels, expected,
         Str("magic number ", BigEndian(classes_of, 0), " and ", BigEndian(classes_of, 4),
             " labels"),
         fetch);
  ImageSet set;
  set.images = at::from_blob(pixels.data() + 16, {count, 1, height, width}, at::kByte).clone();
  set.labels = at::from_blob(classes_of.data() + 8, {count}, at::kByte).to(at::kLong);
  CheckLabels(set.labels, classes, labels, fetch);
  return set;
}

}  // namespace espalier

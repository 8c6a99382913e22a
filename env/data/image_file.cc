#include "env/data/image_file.h"
#include "env/data/png_image.h"

#include <ATen/ATen.h>
#include <jerror.h>

#include <csetjmp>
#include <cstdio>  // jpeglib.h takes FILE for granted
#include <cstring>

#include <jpeglib.h>

#include "env/base/error.h"
#include "env/base/files.h"

namespace espalier {
namespace {

constexpr uint64_t kMostPixels = uint64_t{32} << 20;
constexpr uint64_t kMostBytes = uint64_t{256} << 20;
constexpr size_t kSignature = 8;

[[noreturn]] void Fail(const std::filesystem::path& path, const std::string& what) {
  throw Error(ErrorKind::kData, Str("image '", path.string(), "': ", what),
              "replace the file, or take it out of the folder");
}

void CheckSize(const std::filesystem::path& path, uint64_t width, uint64_t height) {
  if (width == 0 || height == 0 || width * height > kMostPixels)
    Fail(path, Str(width, " x ", height, " pixels; 1 to ", kMostPixels, " are read"));
}

/// The signature and the chunks that hold pixels. libpng would unpack texts and colour profiles of
/// any size, which nobody asked for.
std::string PixelChunks(const std::filesystem::path& path, const std::string& bytes) {
  constexpr size_t kFrame = 12;  // length, type, checksum
  std::string kept = bytes.substr(0, kSignature);
  for (size_t at = kSignature; at < bytes.size();) {
    uint64_t length = UINT64_MAX;
    if (bytes.size() - at >= kFrame) {
      length = 0;
      for (size_t i = 0; i < 4; ++i)
        length = length << 8 | static_cast<unsigned char>(bytes[at + i]);
    }
    if (length > bytes.size() - at - std::min(bytes.size() - at, kFrame))
      Fail(path, Str("truncated: the chunk at byte ", at, " reaches beyond the file"));
    const std::string type = bytes.substr(at + 4, 4);
    for (const char* wanted : {"IHDR", "PLTE", "tRNS", "IDAT", "IEND"})
      if (type == wanted) kept += bytes.substr(at, kFrame + length);
    at += kFrame + length;
  }
  return kept;
}

Tensor ReadPng(const std::filesystem::path& path, const std::string& bytes, int64_t channels) {
  const std::string chunks = PixelChunks(path, bytes);
  PngImage png;
  if (!png_image_begin_read_from_memory(&png.image, chunks.data(), chunks.size()))
    Fail(path, Str("damaged PNG: ", png.image.message));
  CheckSize(path, png.image.width, png.image.height);
  png.image.format = channels == 1 ? PNG_FORMAT_GRAY : PNG_FORMAT_RGB;
  const Tensor pixels = at::empty(
      {static_cast<int64_t>(png.image.height), static_cast<int64_t>(png.image.width), channels},
      at::kByte);
  const png_color black{};
  if (!png_image_finish_read(&png.image, &black, pixels.data_ptr(), 0, nullptr))
    Fail(path, Str("damaged PNG: ", png.image.message));
  return pixels;
}

/// libjpeg's errors end in Jump, warnings that mean lost pixels too.
struct JpegErrors {
  jpeg_error_mgr manager;  // first: libjpeg hands out its address
  std::jmp_buf jump;
  char message[JMSG_LENGTH_MAX];
};

[[noreturn]] void Jump(j_common_ptr info) {
  auto* errors = reinterpret_cast<JpegErrors*>(info->err);
  info->err->format_message(info, errors->message);
  std::longjmp(errors->jump, 1);
}

void Warn(j_common_ptr info, int level) {
  const int code = info->err->msg_code;
  if (level < 0 && (code == JWRN_JPEG_EOF || code == JWRN_HIT_MARKER || code == JWRN_HUFF_BAD_CODE))
    Jump(info);
}

struct JpegPixels {
  uint64_t width = 0, height = 0;
  uint8_t* data = nullptr;
};

/// One of two passes over a JPEG: with pixels.data null its size, else its pixels, row by row. No
/// C++ object lives in here: errors leave by longjmp. Returns whether it went well.
bool DecodeJpeg(const std::string& bytes, int channels, JpegPixels& pixels, JpegErrors& errors) {
  jpeg_decompress_struct info;
  std::memset(&info, 0, sizeof info);
  info.err = jpeg_std_error(&errors.manager);
  errors.manager.error_exit = Jump;
  errors.manager.emit_message = Warn;
  if (setjmp(errors.jump) != 0) {
    jpeg_destroy_decompress(&info);
    return false;
  }
  jpeg_create_decompress(&info);
  jpeg_mem_src(&info, reinterpret_cast<const unsigned char*>(bytes.data()),
               static_cast<unsigned long>(bytes.size()));
  jpeg_read_header(&info, TRUE);
  pixels.width = info.image_width;
  pixels.height = info.image_height;
  if (pixels.data != nullptr) {
    info.out_color_space = channels == 1 ? JCS_GRAYSCALE : JCS_RGB;
    jpeg_start_decompress(&info);
    while (info.output_scanline < info.output_height) {
      JSAMPROW row = pixels.data + static_cast<size_t>(info.output_scanline) * info.output_width *
                                       static_cast<size_t>(channels);
      jpeg_read_scanlines(&info, &row, 1);
    }
    jpeg_finish_decompress(&info);
  }
  jpeg_destroy_decompress(&info);
  return true;
}

Tensor ReadJpeg(const std::filesystem::path& path, const std::string& bytes, int64_t channels) {
  JpegErrors errors;
  JpegPixels pixels;
  if (!DecodeJpeg(bytes, static_cast<int>(channels), pixels, errors))
    Fail(path, Str("damaged JPEG: ", errors.message));
  CheckSize(path, pixels.width, pixels.height);
  const Tensor image =
      at::zeros({static_cast<int64_t>(pixels.height), static_cast<int64_t>(pixels.width), channels},
                at::kByte);
  pixels.data = image.data_ptr<uint8_t>();
  if (!DecodeJpeg(bytes, static_cast<int>(channels), pixels, errors))
    Fail(path, Str("damaged JPEG: ", errors.message));
  return image;
}

}  // namespace

Tensor ReadImage(const std::filesystem::path& path, int64_t channels) {
  ESPALIER_CHECK(channels == 1 || channels == 3, channels, " channels");
  const std::string bytes = ReadFile(path, kMostBytes);
  Tensor pixels;  // [H, W, channels]
  if (bytes.size() >= kSignature &&
      png_sig_cmp(reinterpret_cast<png_const_bytep>(bytes.data()), 0, kSignature) == 0)
    pixels = ReadPng(path, bytes, channels);
  else if (bytes.starts_with("\xff\xd8\xff"))
    pixels = ReadJpeg(path, bytes, channels);
  else
    Fail(path, Str(bytes.size(), " bytes that are neither PNG nor JPEG"));
  return pixels.permute({2, 0, 1}).contiguous();
}

}  // namespace espalier

#include "experiments/event_file.h"

#include <unistd.h>

#include <array>
#include <bit>
#include <chrono>
#include <cstring>

#include "env/base/error.h"

namespace espalier {
namespace {

constexpr std::array<uint32_t, 256> MakeTable() {
  std::array<uint32_t, 256> table{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (crc & 1 ? 0x82F63B78u : 0u);
    table[byte] = crc;
  }
  return table;
}
constexpr auto kTable = MakeTable();

template <typename T>
std::string LittleEndian(T value) {
  static_assert(std::endian::native == std::endian::little);
  std::string bytes(sizeof(T), '\0');
  std::memcpy(bytes.data(), &value, sizeof(T));
  return bytes;
}

std::string Varint(uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes += static_cast<char>(value | 0x80);
  return bytes + static_cast<char>(value);
}

enum WireType { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };
std::string Key(int field, WireType type) {
  return Varint(static_cast<uint64_t>(field) << 3 | static_cast<uint64_t>(type));
}
std::string Message(int field, const std::string& payload) {
  return Key(field, kBytes) + Varint(payload.size()) + payload;
}

double WallTime() {
  using namespace std::chrono;
  return duration<double>(system_clock::now().time_since_epoch()).count();
}

}  // namespace

uint32_t Crc32c(std::string_view bytes) {
  uint32_t crc = 0xFFFFFFFFu;
  for (const unsigned char byte : bytes) crc = (crc >> 8) ^ kTable[(crc ^ byte) & 0xFF];
  return crc ^ 0xFFFFFFFFu;
}

uint32_t MaskedCrc32c(std::string_view bytes) {
  const uint32_t crc = Crc32c(bytes);
  return ((crc >> 15) | (crc << 17)) + 0xA282EAD8u;
}

EventFile::EventFile(const std::filesystem::path& folder) {
  std::filesystem::create_directories(folder);
  char host[256] = "host";
  ::gethostname(host, sizeof host - 1);
  const auto path = folder / Str("events.out.tfevents.", static_cast<int64_t>(WallTime()), '.',
                                 host, '.', ::getpid());
  out_.open(path, std::ios::binary | std::ios::app);
  if (!out_) throw Error(ErrorKind::kIo, Str("cannot write '", path.string(), "'"));
  Record(Key(1, kFixed64) + LittleEndian(WallTime()) + Message(3, "brain.Event:2"));
}

void EventFile::Scalar(const std::string& tag, int64_t step, double value) {
  const std::string entry =
      Message(1, tag) + Key(2, kFixed32) + LittleEndian(static_cast<float>(value));
  Record(Key(1, kFixed64) + LittleEndian(WallTime()) + Key(2, kVarint) +
         Varint(static_cast<uint64_t>(step)) + Message(5, Message(1, entry)));
}

void EventFile::Record(const std::string& event) {
  const std::string length = LittleEndian(static_cast<uint64_t>(event.size()));
  out_ << length << LittleEndian(MaskedCrc32c(length)) << event
       << LittleEndian(MaskedCrc32c(event));
  out_.flush();
}

}  // namespace espalier

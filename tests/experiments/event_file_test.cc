#include "experiments/event_file.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>

#include "env/base/files.h"
#include "tests/support/temp_folder.h"

namespace espalier {
namespace {

uint64_t ReadLittle(const std::string& bytes, size_t at, size_t count) {
  uint64_t value = 0;
  for (size_t i = count; i-- > 0;)
    value = value << 8 | static_cast<unsigned char>(bytes.at(at + i));
  return value;
}

/// The payloads of a record file; checks both checksums of each record.
std::vector<std::string> Records(const std::string& bytes) {
  std::vector<std::string> records;
  for (size_t at = 0; at < bytes.size();) {
    const uint64_t length = ReadLittle(bytes, at, 8);
    EXPECT_EQ(ReadLittle(bytes, at + 8, 4), MaskedCrc32c(bytes.substr(at, 8)));
    records.push_back(bytes.substr(at + 12, length));
    EXPECT_EQ(ReadLittle(bytes, at + 12 + length, 4), MaskedCrc32c(records.back()));
    at += 16 + length;
  }
  return records;
}

TEST(EventFileUnit, ChecksumIsCastagnolis) {
  EXPECT_EQ(Crc32c("123456789"), 0xE3069283u);            // the check value of the CRC catalogue
  EXPECT_EQ(Crc32c(std::string(32, '\0')), 0x8A9136AAu);  // RFC 3720, B.4
}

TEST(EventFileUnit, WritesTheVersionAndThenScalars) {
  const TempFolder folder;
  {
    EventFile events(folder.path());
    events.Scalar("search/loss", 300, 0.5);
  }
  std::filesystem::path file;
  for (const auto& entry : std::filesystem::directory_iterator(folder.path())) file = entry.path();
  EXPECT_TRUE(file.filename().string().starts_with("events.out.tfevents."));
  const auto records = Records(ReadFile(file));
  ASSERT_EQ(records.size(), 2u);
  EXPECT_NE(records[0].find("brain.Event:2"), std::string::npos);
  // Event {wall_time: key 0x09 and 8 bytes; step: key 0x10, varint 300 = AC 02; summary: key 0x2A,
  // 20 bytes {value: key 0x0A, 18 bytes {tag: 0x0A, 11 bytes; simple_value: 0x15, 0.5f =
  // 3F000000}}}
  std::string tail = {'\x10', '\xAC', '\x02', '\x2A', '\x14', '\x0A', '\x12', '\x0A', '\x0B'};
  tail += "search/loss";
  for (const char byte : {'\x15', '\x00', '\x00', '\x00', '\x3F'}) tail += byte;
  EXPECT_EQ(records[1][0], '\x09');
  EXPECT_EQ(records[1].substr(9), tail);
}

}  // namespace
}  // namespace espalier

#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

namespace espalier {

/// Writes scalars that TensorBoard shows: one file per process, records appended and flushed.
///
/// Source   TensorFlow's record format (length, masked CRC-32C, payload, masked CRC-32C) with Event
///          protocol messages, encoded here by hand: wall_time = 1, step = 2, file_version = 3,
///          summary = 5 {value = 1 {tag = 1, simple_value = 2}}.
/// Errors   kIo when the file cannot be made.
class EventFile {
 public:
  explicit EventFile(const std::filesystem::path& folder);
  void Scalar(const std::string& tag, int64_t step, double value);

 private:
  void Record(const std::string& event);
  std::ofstream out_;
};

/// CRC-32C (Castagnoli), as the record format masks it. Exposed for the test.
uint32_t Crc32c(std::string_view bytes);
uint32_t MaskedCrc32c(std::string_view bytes);

}  // namespace espalier

#pragma once

#include <nlohmann/json.hpp>

#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>

namespace espalier {

/// Milliseconds of what was measured once, by what it was, for one device. docs/formats.md has the
/// file; nothing in it is trusted: one that is damaged, or of another device, counts as absent and
/// is measured anew, with a warning in the log.
class LatencyCache {
 public:
  /// In memory only.
  explicit LatencyCache(nlohmann::json device) : device_(std::move(device)) {}
  /// folder: one file for each device.
  LatencyCache(const std::filesystem::path& folder, nlohmann::json device);

  std::optional<double> Find(const std::string& key) const;
  void Put(const std::string& key, double ms);
  /// Adds all that `file` holds for the same device. False when there is no such file, or nothing
  /// of it can be used.
  bool Read(const std::filesystem::path& file);
  /// Only what was asked for or put in: what one run needs to be continued.
  void Write(const std::filesystem::path& file) const;
  /// To the folder, with what other processes have put there since. Nothing to do in memory.
  void Save();

  const nlohmann::json& device() const { return device_; }
  size_t size() const { return ms_.size(); }

 private:
  nlohmann::json device_;
  std::filesystem::path file_;  // empty: in memory only
  void WriteAll(const std::filesystem::path& file, const std::map<std::string, double>& ms) const;

  std::map<std::string, double> ms_;
  mutable std::set<std::string> used_;
  bool changed_ = false;
};

}  // namespace espalier

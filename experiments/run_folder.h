#pragma once

#include <nlohmann/json_fwd.hpp>

#include <filesystem>
#include <optional>
#include <set>
#include <string>

namespace espalier {

/// The folder of one run: resolved config, manifest, stage markers and outputs. Opening it again
/// with the same config continues where it stopped; a stage is done when its marker exists, and a
/// marker is written (atomically) only after everything the stage writes.
///
/// Errors   kConfig when the folder was made with another config, naming the differing keys, or is
/// in
///          use by another process; kUsage when it holds something else than a run.
class RunFolder {
 public:
  /// Creates or reopens `path`, and locks it. open: keys that may differ from call to call, because
  /// they say how much is asked for and not what is computed; the last call's are kept.
  RunFolder(std::filesystem::path path, const std::string& resolved_toml,
            const std::string& command_line, const std::set<std::string>& open = {});
  ~RunFolder();
  RunFolder(const RunFolder&) = delete;
  RunFolder& operator=(const RunFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  bool resumed() const { return resumed_; }

  /// The result a finished stage left, or nullopt.
  std::optional<nlohmann::ordered_json> Finished(const std::string& stage) const;
  void Finish(const std::string& stage, const nlohmann::ordered_json& result);

  /// Adds to manifest.json on first use; later runs must bring the same `inputs` (hashes of the
  /// files the run started from). Errors: kConfig naming the input that changed.
  void Manifest(const nlohmann::ordered_json& facts, const nlohmann::ordered_json& inputs);

 private:
  std::filesystem::path path_;
  std::string command_line_;
  bool resumed_ = false;
  int lock_ = -1;
};

/// Versions, compiler, processor, threads and device of this process.
nlohmann::ordered_json MachineFacts(const std::string& device);

/// Reads a JSON file. Errors: kIo with path and position.
nlohmann::ordered_json ReadJson(const std::filesystem::path& path);
void WriteJson(const std::filesystem::path& path, const nlohmann::ordered_json& json);

std::string UtcNow();  ///< "2026-11-21T11:09:35Z"

}  // namespace espalier

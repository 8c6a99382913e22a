#pragma once

#include <toml++/toml.h>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace espalier::internal {

/// Where a config value was written.
struct ConfigSource {
  std::string origin;              ///< "quick.toml:14" or "--set"
  std::filesystem::path folder;    ///< relative paths start here; empty: the current folder
  std::optional<std::string> raw;  ///< of an override, as typed: 007 is a fine string
};
using ConfigSources = std::map<std::string, ConfigSource>;  ///< by dotted key "strategy.batches"

/// Merges a config file, the files it includes and the overrides into one table. Only config.cc and
/// its own .cc see this header: it carries toml++.
///
/// Errors   kConfig with the place, except a missing first file: kIo.
class ConfigLoader {
 public:
  toml::table table;
  ConfigSources sources;

  void AddFile(const std::filesystem::path& path);
  void AddText(const std::string& text, const std::string& origin);
  void AddOverride(const std::string& text);  ///< "a.b=value"

 private:
  void AddIncludes(const toml::node& include, const std::string& origin,
                   const std::filesystem::path& folder);
  void Merge(toml::table& into, toml::table&& from, const std::string& section,
             const std::string& origin, const std::filesystem::path& folder);
  void Forget(const std::string& dotted);

  std::vector<std::filesystem::path> open_;  // the chain of includes being read
  int files_ = 0;                            // read so far
};

std::string DottedKey(const std::string& section, std::string_view key);
std::string FoundType(const toml::node& node);  ///< "table", "list", "string", ...
[[noreturn]] void ThrowConfigAt(const std::string& what, const std::string& origin,
                                const std::string& hint = {});

}  // namespace espalier::internal

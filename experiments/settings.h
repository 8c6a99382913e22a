#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "env/base/config.h"
#include "experiments/model_source.h"

namespace espalier {

/// [run]: what is not about the method.
struct RunSettings {
  int64_t seed = 1;
  std::string name = "";        ///< folder name under `out`; empty = the config's file name
  std::string out = "runs";     ///< parent folder; relative to the current directory
  std::string device = "auto";  ///< auto, cpu, cuda, cuda:1
  bool tf32 = false;            ///< of a CUDA device's float32 products
};
Schema Describe(RunSettings& settings);
/// The device of a run, with its arithmetic set. Errors as ParseDevice.
at::Device UseDevice(const RunSettings& settings);
/// Whether float32 products of CUDA devices may have 10 bits of mantissa.
void AllowTf32(bool on);

/// The folder of a run: `folder_option` (--out) when given, else out/name.
std::filesystem::path RunFolderPath(const RunSettings& settings,
                                    const std::filesystem::path& config,
                                    const std::string& folder_option);

/// Reads a section into a struct with a Schema, collecting problems.
template <typename Config>
void ReadSection(const ConfigDocument& document, const std::string& name, Config& config,
                 std::vector<std::string>& problems) {
  document.Section(name).ReadInto(Describe(config), {}, problems);
}

/// [model] with its paths resolved against the file that names them.
void ReadModelSection(const ConfigDocument& document, ModelConfig& config,
                      std::vector<std::string>& problems);

/// "section.key" -> TOML value of a resolved config: what has to agree for a folder to be resumed.
/// own: only what somebody set, without the defaults.
std::map<std::string, std::string> SettingsOf(const std::string& resolved_toml, bool own = false);

}  // namespace espalier

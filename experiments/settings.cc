#include "experiments/settings.h"

#include <ATen/Context.h>

#include <sstream>

namespace espalier {

Schema Describe(RunSettings& settings) {
  return Schema()
      .Add("seed", &settings.seed, "every random stream derives from it", {0, int64_t{1} << 53})
      .Add("name", &settings.name, "folder under out; empty = the config's file name")
      .Add("out", &settings.out, "parent folder of runs, relative to the current directory")
      .Add("device", &settings.device, "auto, cpu, cuda or cuda:N")
      .Add("tf32", &settings.tf32,
           "float32 products of a CUDA device with 10 bits of mantissa: faster, results differ");
}

at::Device UseDevice(const RunSettings& settings) {
  const at::Device device = ParseDevice(settings.device);
  AllowTf32(settings.tf32);
  return device;
}

void AllowTf32(bool on) {
  at::globalContext().setAllowTF32CuDNN(on);
  at::globalContext().setAllowTF32CuBLAS(on);
}

std::filesystem::path RunFolderPath(const RunSettings& settings,
                                    const std::filesystem::path& config,
                                    const std::string& folder_option) {
  if (!folder_option.empty()) return folder_option;
  const std::string name = settings.name.empty() ? config.stem().string() : settings.name;
  return std::filesystem::path(settings.out) / name;
}

void ReadModelSection(const ConfigDocument& document, ModelConfig& config,
                      std::vector<std::string>& problems) {
  ReadSection(document, "model", config, problems);
  if (!config.weights.empty())
    config.weights = document.ResolvePath("model", "weights", config.weights).string();
  if (!config.input.empty())
    config.input = document.ResolvePath("model", "input", config.input).string();
  if (!config.file.empty())
    config.file = document.ResolvePath("model", "file", config.file).string();
}

std::map<std::string, std::string> SettingsOf(const std::string& resolved_toml, bool own) {
  std::map<std::string, std::string> settings;
  std::istringstream lines(resolved_toml);
  std::string line, section;
  while (std::getline(lines, line)) {
    if (line.starts_with("[")) {
      section = line.substr(1, line.find(']') - 1);
      continue;
    }
    const size_t equals = line.find(" = ");
    if (equals == std::string::npos || line.starts_with("#")) continue;
    std::string value = line.substr(equals + 3);
    const size_t origin = value.rfind("  # ");  // DumpToml ends every line with its origin
    if (own && value.ends_with("  # default")) continue;
    if (origin != std::string::npos) value.erase(origin);
    settings[section + "." + line.substr(0, equals)] = value;
  }
  return settings;
}

}  // namespace espalier

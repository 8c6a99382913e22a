#include "experiments/model_source.h"

#include <ATen/Context.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "env/base/error.h"
#include "env/base/files.h"
#include "env/base/log.h"
#include "env/graph/io.h"
#include "env/graph/sample_inputs.h"
#include "env/graph/torchscript.h"
#include "env/models/models.h"
#include "experiments/sample_inputs.h"

namespace espalier {
namespace {

/// Numbers after `word`, up to the next letter: "mean .485 .456, std .2" -> {.485, .456}.
std::vector<double> NumbersAfter(const std::string& text, const std::string& word) {
  std::vector<double> numbers;
  const size_t at = text.find(word);
  if (at == std::string::npos) return numbers;
  const char* next = text.c_str() + at + word.size();
  while (*next) {
    if (*next == ' ' || *next == ',' || *next == ':' || *next == '=') {
      ++next;
      continue;
    }
    char* end = nullptr;
    const double number = std::strtod(next, &end);
    if (end == next) break;
    numbers.push_back(number);
    next = end;
  }
  return numbers;
}

void ReadNormalisation(const std::string& text, ModelSource& source) {
  source.mean = NumbersAfter(text, "mean");
  source.std = NumbersAfter(text, "std");
  if (source.mean.size() != source.std.size()) source.mean.clear(), source.std.clear();
}

bool Near(const std::vector<double>& a, const std::vector<double>& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i)
    if (std::abs(a[i] - b[i]) > 1e-4) return false;  // stated values have 3 or 4 digits
  return true;
}

}  // namespace

Schema Describe(ModelConfig& config) {
  std::vector<std::string> names = {""};
  for (const auto& model : BuiltinModels()) names.push_back(model.name);
  return Schema()
      .Add("name", &config.name, "built-in network; see `espalier list models`", names)
      .Add("weights", &config.weights, "safetensors file, relative to this config; empty = random")
      .Add("file", &config.file, "a .pt2 or TorchScript file instead of name and weights")
      .Add("input", &config.input,
           "safetensors file of sample inputs by name, for a TorchScript file, or when the "
           "archive's do not do")
      .Add("input_shape", &config.input_shape, "instead: their shapes, as 1x3x224x224,1x16:int64")
      .Add("shortcut", &config.shortcut, "shortcuts of CIFAR ResNets", {"A", "projection"})
      .Add("classes", &config.classes, "outputs of the classifier; 0 = the network's usual",
           {0, 1'000'000});
}

std::string ModelSource::Normalisation() const { return NormalisationText(mean, std); }

ModelSource LoadModelSource(const ModelConfig& config, uint64_t seed) {
  if (config.name.empty() == config.file.empty())
    throw Error(ErrorKind::kConfig,
                config.name.empty() ? "[model] names no network"
                                    : "[model] has both 'name' and 'file': give one of them",
                "write name = \"resnet20\" or file = \"model.pt2\" (espalier list models)");
  ModelSource source;
  source.config = config;
  if (!config.file.empty()) {
    source.network = ReadNetwork(config.file, ReadSamples(config.input, config.input_shape));
    source.weights_file = config.file;
    if (const auto note = source.network.extras.find("extra/espalier.json");
        note != source.network.extras.end()) {
      const auto json = nlohmann::json::parse(note->second, nullptr, /*allow_exceptions=*/false);
      if (json.is_object() && json.contains("normalisation") && json["normalisation"].is_string())
        ReadNormalisation(json["normalisation"], source);
    }
  } else {
    if (!config.input.empty() || !config.input_shape.empty())
      throw Error(ErrorKind::kConfig,
                  Str("'", config.name, "' is a built-in network and knows its inputs"),
                  "sample inputs are for network files");
    ModelOptions options{.classes = config.classes, .shortcut = config.shortcut, .seed = seed};
    if (!config.weights.empty()) options = OptionsFromWeights(config.name, config.weights, options);
    source.network = BuildModel(config.name, options);
    if (!config.weights.empty()) {
      LoadWeights(config.weights, source.network.store);
      source.weights_file = config.weights;
      const auto metadata = ReadSafetensors(config.weights).metadata;
      if (const auto found = metadata.find("normalisation"); found != metadata.end())
        ReadNormalisation(found->second, source);
      if (const auto found = metadata.find("held_out"); found != metadata.end())
        source.held_out = found->second;
    }
  }
  if (!source.weights_file.empty()) source.file_sha256 = Sha256OfFile(source.weights_file);
  return source;
}

Space PrunableSpace(const Network& network, const SpaceOptions& options) {
  Space space = BuildSpace(network, options);
  if (space.groups().empty())
    throw Error(ErrorKind::kModel, Str("nothing of '", network.name, "' can be pruned"),
                "espalier inspect shows what is pinned and why");
  return space;
}

ModelConfig ParseModelWord(const std::string& model) {
  ModelConfig config;
  if (const auto colon = model.find(':'); colon != std::string::npos) {
    config.name = model.substr(0, colon);
    config.weights = model.substr(colon + 1);
  } else if (IsNetworkFile(model) || std::filesystem::exists(model)) {
    config.file = model;
  } else {
    config.name = model;
  }
  if (config.name.empty() && config.file.empty())
    throw Error(ErrorKind::kUsage, Str("'", model, "' is not a model"),
                "write FILE.pt2, NAME or NAME:weights.safetensors (espalier list models)");
  return config;
}

void SettleNormalisation(const ModelSource& source, DataConfig& data) {
  if (source.mean.empty()) return;
  const std::string stated = NormalisationText(source.mean, source.std);
  if (data.mean.empty() && data.std.empty()) {
    LogInfo("normalising with what ", source.weights_file, " states: ", stated);
    data.mean = source.mean;
    data.std = source.std;
  } else if (!Near(data.mean, source.mean) || !Near(data.std, source.std)) {
    LogWarning("the config normalises with ", NormalisationText(data.mean, data.std), ", but ",
               source.weights_file, " states ", stated, "; the config wins");
  }
}

std::string NormalisationText(const std::vector<double>& mean, const std::vector<double>& std) {
  if (mean.empty()) return "";
  std::string text = "mean";
  for (const double value : mean) text += Str(' ', value);
  text += ", std";
  for (const double value : std) text += Str(' ', value);
  return text;
}

at::Device ParseDevice(const std::string& name) {
  if (name == "cpu") return at::kCPU;
  if (name == "auto") return at::hasCUDA() ? at::Device(at::kCUDA, 0) : at::Device(at::kCPU);
  try {
    const at::Device device(name);
    if (device.is_cpu()) return device;
    if (device.is_cuda()) {
      if (!at::hasCUDA())
        throw Error(ErrorKind::kDevice,
                    Str("device '", name, "': this machine offers no CUDA device"),
                    "write device = \"auto\" (espalier doctor shows what there is)");
      return device;
    }
  } catch (const c10::Error&) {
  }
  throw Error(ErrorKind::kConfig, Str("unknown device '", name, "'"),
              "one of auto, cpu, cuda, cuda:0, cuda:1, ...");
}

}  // namespace espalier

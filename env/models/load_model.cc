#include <filesystem>

#include "env/base/error.h"
#include "env/graph/io.h"
#include "env/graph/torchscript.h"
#include "env/models/models.h"

namespace espalier {
namespace {

void RequireFile(const std::filesystem::path& path, const std::string& what) {
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(path, ignored))
    throw Error(ErrorKind::kModel, Str(what, " '", path.string(), "' does not exist"));
}

}  // namespace

ModelOptions OptionsFromWeights(const std::string& name, const std::filesystem::path& weights,
                                ModelOptions options) {
  const ModelInfo& info = FindModel(name);
  for (const auto& [tensor_name, tensor] : ReadSafetensors(weights).tensors) {
    if (options.classes == 0 && tensor_name == info.head && tensor.dim() == 2) {
      constexpr int64_t kMostClasses = 1'000'000;
      options.classes = tensor.size(0);
      if (tensor.numel() == 0 || options.classes > kMostClasses)
        throw Error(ErrorKind::kModel,
                    Str("the weights in '", weights.string(), "' have the classifier '", info.head,
                        "' of ", tensor.sizes(), ", 1 to ", kMostClasses, " classes are allowed"));
    }
    if (info.shortcut_choice && tensor_name == "layer2.0.shortcut.0.weight")
      options.shortcut = "projection";
  }
  return options;
}

Network LoadModel(const std::string& model, const ModelOptions& options) {
  if (IsNetworkFile(model)) {
    RequireFile(model, "model file");
    return ReadNetwork(model);
  }
  const size_t colon = model.find(':');
  if (colon == std::string::npos) return BuildModel(model, options);

  const ModelInfo& info = FindModel(model.substr(0, colon));
  const std::filesystem::path weights = model.substr(colon + 1);
  RequireFile(weights, Str("weights of '", info.name, "'"));
  Network network = BuildModel(info.name, OptionsFromWeights(info.name, weights, options));
  LoadWeights(weights, network.store);
  return network;
}

}  // namespace espalier

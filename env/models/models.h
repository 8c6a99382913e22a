#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "env/graph/network.h"

namespace espalier {

/// Options shared by the built-in networks.
struct ModelOptions {
  int64_t classes = 0;         ///< outputs of the classifier; 0 = the network's usual (10 or 1000)
  int64_t input_size = 0;      ///< height = width; 0 = the network's usual (32 or 224)
  std::string shortcut = "A";  ///< CIFAR ResNets: "A" (strided slice + zero pad) or "projection"
  uint64_t seed = 0;           ///< weights are seeded random
};

struct ModelInfo {
  std::string name;     ///< "resnet20"
  std::string summary;  ///< "CIFAR ResNet-20, 0.27 M parameters, 41 MMAC"
  std::string source;   ///< paper, and whose parameter names the network carries
  Network (*build)(const ModelOptions& options);  ///< takes complete options; use BuildModel
  std::string head;                               ///< the classifier's weight: one row a class
  int64_t classes = 10;
  int64_t input_size = 32;
  int64_t least_input_size = 1;  ///< smaller images vanish in the pooling
  bool shortcut_choice = false;  ///< ModelOptions::shortcut means something here
};

const std::vector<ModelInfo>& BuiltinModels();  ///< in the order `list models` shows them
/// Errors: kModel for an unknown name, with the nearest known one.
const ModelInfo& FindModel(const std::string& name);
/// Errors: kModel for an unknown name, with the nearest known one, and for options the network does
/// not have.
Network BuildModel(const std::string& name, const ModelOptions& options = {});

/// Fills in what a weights file knows where `options` leave it open: the number of classes (rows of
/// the head) and the kind of shortcut. Errors: kModel, kIo from reading the file.
ModelOptions OptionsFromWeights(const std::string& name, const std::filesystem::path& weights,
                                ModelOptions options = {});

/// MODEL of the command line: "FILE.pt2", "NAME" or "NAME:weights.safetensors". The weights tell
/// the number of classes and the kind of shortcut where `options` leave them open. Errors: kModel
/// (unknown name, missing file, weights of another network).
Network LoadModel(const std::string& model, const ModelOptions& options = {});

}  // namespace espalier

#pragma once

#include <string>
#include <vector>

#include "env/base/config.h"
#include "env/data/splits.h"
#include "env/graph/network.h"
#include "env/space/space.h"

namespace espalier {

/// Which network: a built-in by name (with weights, or seeded random) or an exported file.
struct ModelConfig {
  std::string name;            ///< built-in network; see `espalier list models`
  std::string weights;         ///< safetensors; relative to the config file; empty = seeded random
  std::string file;            ///< .pt2 or TorchScript instead of name + weights
  std::string input;           ///< safetensors: sample inputs of a file, for tracing; or empty
  std::string input_shape;     ///< instead: "1x3x224x224", see sample_inputs.h
  std::string shortcut = "A";  ///< CIFAR ResNets
  int64_t classes = 0;         ///< 0 = the network's usual
};
Schema Describe(ModelConfig& config);

/// A network together with where it came from.
struct ModelSource {
  Network network;
  ModelConfig config;             ///< paths absolute
  std::string weights_file;       ///< "" for seeded random weights
  std::string file_sha256;        ///< of weights_file
  std::string held_out;           ///< training images the weights file says it never saw; or ""
  std::vector<double> mean, std;  ///< normalisation the weights file states; empty = says nothing

  std::string Normalisation() const;  ///< NormalisationText of them; "" when nothing is stated
};

/// Errors: kConfig when neither or both of name and file are given; kModel and kIo from the
/// readers, and for sample inputs that do not fit.
ModelSource LoadModelSource(const ModelConfig& config, uint64_t seed);
/// BuildSpace for a network that is to be cut. Errors: kModel when nothing of it can be pruned.
Space PrunableSpace(const Network& network, const SpaceOptions& options);
/// MODEL of the command line: "FILE.pt2", "FILE.pt", "NAME" or "NAME:weights.safetensors".
ModelConfig ParseModelWord(const std::string& model);

/// Settles the normalisation: a config's own mean and std win, with a warning when the weights
/// state another; without them the weights' own are used and said aloud; else the data set's.
void SettleNormalisation(const ModelSource& source, DataConfig& data);

/// "mean .485 .456 .406, std .229 .224 .225": the form of the safetensors metadata entry; "" for
/// none.
std::string NormalisationText(const std::vector<double>& mean, const std::vector<double>& std);

/// "auto" takes a CUDA device when there is one. Errors: kDevice, kConfig.
at::Device ParseDevice(const std::string& name);

}  // namespace espalier

#include "experiments/data_options.h"

#include <cstdlib>
#include <sstream>

#include "env/base/error.h"
#include "env/base/files.h"

namespace espalier {
namespace {

std::vector<double> ReadNumbers(const std::string& option, const std::string& text) {
  std::vector<double> numbers;
  std::istringstream parts(text);
  for (std::string part; std::getline(parts, part, ',');) {
    char* end = nullptr;
    numbers.push_back(std::strtod(part.c_str(), &end));
    if (part.empty() || *end)
      throw Error(ErrorKind::kUsage, Str("--", option, " ", text, ": '", part, "' is not a number"),
                  Str("one number a channel: --", option, " 0.485,0.456,0.406"));
  }
  return numbers;
}

}  // namespace

void AddDataOptions(OptionList& add) {
  add.Text("data", "NAME", "cifar10", "cifar10, cifar100 or mnist");
  add.Text("root", "DIR", "data", "folder of the data sets");
  add.Text("mean", "A,B,C", "",
           "per channel, of pixels in 0..1; default: what the weights state, else the data set's");
  add.Text("std", "A,B,C", "", "per channel; goes with --mean");
  add.Real("validation", "X", DataConfig().validation,
           "held out of the training samples: a share below 1, or a number");
}

DataConfig ReadDataOptions(const Arguments& arguments) {
  DataConfig data;
  data.name = arguments.Text("data");
  data.root = arguments.Text("root");
  data.validation = arguments.Real("validation");
  data.mean = ReadNumbers("mean", arguments.Text("mean"));
  data.std = ReadNumbers("std", arguments.Text("std"));
  if (data.mean.size() != data.std.size())
    throw Error(ErrorKind::kUsage, "--mean and --std go together, with equally many numbers");
  return data;
}

void AddModelOptions(OptionList& add) {
  add.Text("shortcut", "KIND", "A", "of CIFAR ResNets: A or projection");
  add.Integer("classes", "N", 0, "outputs of a built-in network; 0 = its usual");
  add.Text("input-shape", "SHAPE", "", "inputs of a TorchScript file: 1x3x224x224,1x16:int64");
  add.Text("input", "FILE", "", "sample inputs: safetensors, one tensor an input");
}

ModelConfig ReadModelOptions(const Arguments& arguments, size_t position) {
  ModelConfig model = ParseModelWord(arguments.positional()[position]);
  model.shortcut = arguments.Text("shortcut");
  model.classes = arguments.Integer("classes");
  model.input_shape = arguments.Text("input-shape");
  model.input = arguments.Text("input");
  if (model.shortcut != "A" && model.shortcut != "projection")
    throw Error(ErrorKind::kUsage, Str("unknown shortcut '", model.shortcut, "'"),
                "one of A, projection");
  return model;
}

void AddSpaceOptions(OptionList& add) {
  add.Flag("decouple-residuals", "separate residual branches from their trunk");
  add.Text("attention", "WHAT", "dims",
           "what of an attention can go: dims of its heads, heads, or both");
  add.Flag("depth", "whole residual branches can go too");
  add.List("exclude", "PATTERN", "module path that is not cut, * is any text; may be repeated");
}

SpaceOptions ReadSpaceOptions(const Arguments& arguments) {
  return {.decouple_residuals = arguments.Has("decouple-residuals"),
          .exclude = arguments.List("exclude"),
          .attention = arguments.Text("attention"),
          .depth = arguments.Has("depth")};
}

std::string DataHash(const Splits& splits) {
  std::string hashes;
  for (const Dataset* samples : {&splits.train(), &splits.validation(), &splits.test()})
    if (samples->count() > 0) hashes += samples->Hash();
  return Sha256Hex(hashes);
}

}  // namespace espalier

#include "env/models/models.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include "env/base/error.h"
#include "env/base/rng.h"
#include "env/models/families.h"

namespace espalier {
namespace {

using Options = const ModelOptions&;
constexpr const char* kHe2016 = "He et al., arXiv:1512.03385 §4.2; names of pytorch_resnet_cifar10";
constexpr const char* kHe2016Imagenet = "He et al., arXiv:1512.03385 table 1; torchvision names";
constexpr const char* kSimonyan = "Simonyan, Zisserman, arXiv:1409.1556; torchvision names";
constexpr const char* kVgg16 =
    "Simonyan, Zisserman, arXiv:1409.1556; head and names of the HRank code (Lin et al. 2020)";
constexpr const char* kVgg19 =
    "Simonyan, Zisserman, arXiv:1409.1556; head and names of the RepDistiller code (Tian et al.)";

std::vector<ModelInfo> MakeTable() {
  return {
      {.name = "resnet20",
       .summary = "CIFAR ResNet-20, 0.27 M parameters, 41 MMAC",
       .source = kHe2016,
       .build = [](Options o) { return CifarResnet("resnet20", 3, o); },
       .head = "linear.weight",
       .shortcut_choice = true},
      {.name = "resnet32",
       .summary = "CIFAR ResNet-32, 0.46 M parameters, 69 MMAC",
       .source = kHe2016,
       .build = [](Options o) { return CifarResnet("resnet32", 5, o); },
       .head = "linear.weight",
       .shortcut_choice = true},
      {.name = "resnet44",
       .summary = "CIFAR ResNet-44, 0.66 M parameters, 97 MMAC",
       .source = kHe2016,
       .build = [](Options o) { return CifarResnet("resnet44", 7, o); },
       .head = "linear.weight",
       .shortcut_choice = true},
      {.name = "resnet56",
       .summary = "CIFAR ResNet-56, 0.85 M parameters, 125 MMAC",
       .source = kHe2016,
       .build = [](Options o) { return CifarResnet("resnet56", 9, o); },
       .head = "linear.weight",
       .shortcut_choice = true},
      {.name = "resnet110",
       .summary = "CIFAR ResNet-110, 1.7 M parameters, 253 MMAC",
       .source = kHe2016,
       .build = [](Options o) { return CifarResnet("resnet110", 18, o); },
       .head = "linear.weight",
       .shortcut_choice = true},
      {.name = "vgg16_bn_cifar",
       .summary = "VGG-16 with batch norm and a 512-wide hidden layer, 15 M parameters, 313 MMAC",
       .source = kVgg16,
       .build = CifarVgg16,
       .head = "classifier.linear2.weight",
       .least_input_size = 16},
      {.name = "vgg19_bn_cifar",
       .summary = "VGG-19 with batch norm and one linear layer, 20 M parameters, 511 MMAC",
       .source = kVgg19,
       .build = CifarVgg19,
       .head = "classifier.weight",
       .least_input_size = 8},
      {.name = "densenet40",
       .summary = "DenseNet-40, growth 12, no compression, 1.06 M parameters, 283 MMAC",
       .source = "Huang et al., arXiv:1608.06993 §3; names of the HRank code (Lin et al. 2020)",
       .build = CifarDensenet40,
       .head = "fc.weight",
       .least_input_size = 4},
      {.name = "googlenet_cifar",
       .summary = "GoogLeNet with batch norm and a 3x3 stem, 6.2 M parameters, 1522 MMAC",
       .source =
           "Szegedy et al., arXiv:1409.4842 table 1; names of the HRank code (Lin et al. 2020)",
       .build = CifarGooglenet,
       .head = "linear.weight"},
      {.name = "resnet18",
       .summary = "ImageNet ResNet-18, 11.7 M parameters, 1814 MMAC",
       .source = kHe2016Imagenet,
       .build =
           [](Options o) {
             return ImagenetResnet("resnet18", {2, 2, 2, 2}, false, o);
           },
       .head = "fc.weight",
       .classes = 1000,
       .input_size = 224},
      {.name = "resnet34",
       .summary = "ImageNet ResNet-34, 21.8 M parameters, 3664 MMAC",
       .source = kHe2016Imagenet,
       .build =
           [](Options o) {
             return ImagenetResnet("resnet34", {3, 4, 6, 3}, false, o);
           },
       .head = "fc.weight",
       .classes = 1000,
       .input_size = 224},
      {.name = "resnet50",
       .summary = "ImageNet ResNet-50, 25.6 M parameters, 4089 MMAC",
       .source = kHe2016Imagenet,
       .build =
           [](Options o) {
             return ImagenetResnet("resnet50", {3, 4, 6, 3}, true, o);
           },
       .head = "fc.weight",
       .classes = 1000,
       .input_size = 224},
      {.name = "mobilenet_v2",
       .summary = "MobileNetV2, 3.5 M parameters, 301 MMAC",
       .source = "Sandler et al., arXiv:1801.04381 table 2; torchvision names",
       .build = ImagenetMobilenetV2,
       .head = "classifier.1.weight",
       .classes = 1000,
       .input_size = 224},
      {.name = "vgg16_bn",
       .summary = "ImageNet VGG-16 with batch norm, 138 M parameters, 15470 MMAC",
       .source = kSimonyan,
       .build = ImagenetVgg16,
       .head = "classifier.6.weight",
       .classes = 1000,
       .input_size = 224,
       .least_input_size = 32},
  };
}

[[noreturn]] void ThrowOption(const ModelInfo& info, const std::string& what,
                              const std::string& hint = {}) {
  throw Error(ErrorKind::kModel, Str("network '", info.name, "': ", what), hint);
}

ModelOptions Complete(const ModelInfo& info, ModelOptions options) {
  if (options.classes == 0) options.classes = info.classes;
  if (options.input_size == 0) options.input_size = info.input_size;
  if (options.classes < 1) ThrowOption(info, Str("classes = ", options.classes, ", must be >= 1"));
  if (options.input_size < info.least_input_size)
    ThrowOption(info, Str("input size ", options.input_size, ", must be >= ", info.least_input_size,
                          " to survive the pooling"));
  if (options.shortcut != "A" && options.shortcut != "projection")
    ThrowOption(info, Str("shortcut '", options.shortcut, "', must be 'A' or 'projection'"));
  if (options.shortcut != "A" && !info.shortcut_choice)
    ThrowOption(info, "has no choice of shortcuts", "only the CIFAR ResNets have one");
  return options;
}

}  // namespace

const std::vector<ModelInfo>& BuiltinModels() {
  static const std::vector<ModelInfo> kModels = MakeTable();
  return kModels;
}

const ModelInfo& FindModel(const std::string& name) {
  std::vector<std::string> known;
  for (const ModelInfo& info : BuiltinModels()) {
    if (info.name == name) return info;
    known.push_back(info.name);
  }
  throw Error(ErrorKind::kModel, Str("no built-in network is named '", name, "'"),
              SuggestName(name, known));
}

Network BuildModel(const std::string& name, const ModelOptions& options) {
  const ModelInfo& info = FindModel(name);
  return info.build(Complete(info, options));
}

void InitLinears(Network& network, double std_dev, uint64_t seed) {
  for (const Op& op : network.graph.ops) {
    if (op.target() != "aten::linear") continue;
    const auto stored = [&](const char* argument) -> const std::string& {
      return network.graph.values[static_cast<size_t>(op.ValueArg(argument))].target;
    };
    const std::string& weight = stored("weight");
    auto generator = at::make_generator<at::CPUGeneratorImpl>(StreamSeed(seed, 0, weight));
    network.store.Get(weight).normal_(0, std_dev, generator);
    network.store.Get(stored("bias")).zero_();
  }
}

}  // namespace espalier

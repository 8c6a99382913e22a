#pragma once

#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "env/base/rng.h"
#include "env/graph/network.h"

namespace espalier {

enum class Init {
  kTorchDefault,         ///< kaiming_uniform(a = sqrt 5) weights, uniform bias: torch.nn defaults
  kKaimingNormal,        ///< normal, std = sqrt(2 / fan_in): He et al.; akamaster's CIFAR ResNets
  kKaimingNormalFanOut,  ///< torchvision's ResNets and MobileNetV2
};

struct ConvOptions {
  int64_t kernel = 3;
  int64_t stride = 1;
  int64_t padding = 0;
  int64_t groups = 1;
  bool bias = false;
};

struct PoolOptions {
  int64_t kernel = 2;
  int64_t stride = 0;  ///< 0 = kernel
  int64_t padding = 0;
  bool ceil_mode = false;
};

/// Writes a Network call by call, in PyTorch's names. Layers create their parameters, seeded from
/// (seed, parameter name), so adding a layer never changes the weights of another.
///
///   Builder b("tiny", seed);
///   auto x = b.Input("x", {2, 3, 32, 32});
///   x = b.Relu(b.BatchNorm2d("bn1", b.Conv2d("conv1", x, 3, 16, {.padding = 1}), 16));
///   Network net = b.Finish({b.Linear("fc", b.Flatten(b.GlobalAvgPool(x)), 16, 10)});
///
/// Errors   kModel for unknown operators or arguments; nothing is executed while building.
class Builder {
 public:
  explicit Builder(std::string name, uint64_t seed = 0, Init init = Init::kTorchDefault);

  ValueId Input(const std::string& name, std::vector<int64_t> sizes,
                at::ScalarType dtype = at::kFloat);
  ValueId Parameter(const std::string& name, Tensor tensor);
  ValueId Buffer(const std::string& name, Tensor tensor);
  void Tie(const std::string& alias, const std::string& name);

  /// Any operator: Call("aten::add", "Tensor", {{"self", a}, {"other", b}}). Arguments by schema
  /// name; omitted ones take their defaults. Module path = the innermost open scope or `path`.
  using NamedArg = std::pair<std::string, Arg>;
  ValueId Call(const std::string& op, const std::string& overload, std::vector<NamedArg> args,
               const std::string& path = {}, const std::string& type = {});
  std::vector<ValueId> CallMulti(const std::string& op, const std::string& overload,
                                 std::vector<NamedArg> args, int64_t outputs,
                                 const std::string& path = {}, const std::string& type = {});

  // Layers: `path` is the module's dotted name; parameters are path + ".weight" and so on.
  ValueId Conv2d(const std::string& path, ValueId x, int64_t in, int64_t out,
                 const ConvOptions& options = {});
  ValueId BatchNorm2d(
      const std::string& path, ValueId x, int64_t channels, double eps = 1e-5,
      double momentum = 0.1);  ///< also for 1-d inputs (module type BatchNorm1d there)
  ValueId Linear(const std::string& path, ValueId x, int64_t in, int64_t out, bool bias = true);
  ValueId Relu(ValueId x, const std::string& path = {});
  ValueId Relu6(ValueId x, const std::string& path = {});
  ValueId MaxPool2d(ValueId x, const PoolOptions& options, const std::string& path = {});
  ValueId AvgPool2d(ValueId x, const PoolOptions& options, const std::string& path = {});
  ValueId AdaptiveAvgPool2d(ValueId x, int64_t size, const std::string& path = {});
  ValueId GlobalAvgPool(ValueId x, const std::string& path = {}) {
    return AdaptiveAvgPool2d(x, 1, path);
  }
  ValueId Flatten(ValueId x, int64_t start_dim = 1);
  ValueId Add(ValueId a, ValueId b, const std::string& path = {});
  ValueId Cat(std::vector<ValueId> values, int64_t dim = 1, const std::string& path = {});
  ValueId Dropout(ValueId x, double p, const std::string& path = {});

  Network Finish(std::vector<ValueId> outputs);

 private:
  ValueId Stored(const std::string& name, Tensor tensor, StoreKind kind);
  Tensor InitWeight(const std::string& name, const std::vector<int64_t>& sizes, int64_t fan_in,
                    int64_t fan_out) const;
  ValueId NewResult(const std::string& base);

  Network network_;
  uint64_t seed_;
  Init init_;
  std::map<std::string, int64_t> name_counts_;
};

}  // namespace espalier

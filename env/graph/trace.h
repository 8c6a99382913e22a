#pragma once

#include <functional>
#include <string>
#include <vector>

#include "env/graph/network.h"
#include "env/graph/torchscript.h"

namespace torch::nn {
class Module;
}  // namespace torch::nn

namespace espalier {

using TensorFunction = std::function<std::vector<Tensor>(const std::vector<Tensor>&)>;

/// A tensor that a traced function reads, and the name it gets in the Network.
struct NamedTensor {
  std::string name;  ///< "layer1.0.conv1.weight"
  Tensor tensor;     ///< the very tensor the function uses
  StoreKind kind = StoreKind::kParameter;
  std::string module_type;  ///< of the module that owns it: "torch::nn::Conv2dImpl"; may be empty
};

/// A Network out of any C++ function on tensors: it is run at two batch sizes and the operators it
/// calls are recorded. Numbers that differ between the runs are taken as linear in the batch.
/// Operators belong to the module whose tensors they read; those that read none belong to the root.
///
/// Errors   kModel naming the operator: one that is not recorded alike in both runs, and as
///          ReadTorchScript. Control flow on data is not seen: only what ran is recorded.
/// Cost     four forwards of the function's operators at batches 2 and 5.
Network TraceFunction(const std::string& name, const TensorFunction& function,
                      const std::vector<NamedTensor>& stored, const std::vector<Sample>& samples);

/// The same of a module, which is put into eval mode; `forward` calls it. Its parameters and
/// buffers keep their names.
Network TraceModule(const std::string& name, torch::nn::Module& module,
                    const TensorFunction& forward, const std::vector<Sample>& samples);

}  // namespace espalier

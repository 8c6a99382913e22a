#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "env/base/tensor.h"
#include "env/data/dataset.h"
#include "env/graph/network.h"
#include "env/space/plan.h"

namespace espalier {

/// Inputs of `batches` of a loader's batches from number `first` on, together: [input][samples,
/// ...].
std::vector<Tensor> JoinedInputs(Loader& loader, int64_t first, int64_t batches, at::Device device);

struct CompensateOptions {
  double ridge = 1e-3;   ///< relative to the mean diagonal of the Gram matrix; > 0
  bool residual = true;  ///< branches aim at the uncut trunk, so that they repair what came before
  /// A layer is fitted on as many samples as have this many output positions, 0 = on all samples.
  int64_t positions = 0;
};

/// One layer whose weights were recomputed.
struct CompensatedLayer {
  std::string name;         ///< module path
  std::string target;       ///< "output", or "trunk" for a branch that aims at the sum
  double error_before = 0;  ///< mean squared error to the target, relative to its variance
  double error_after = 0;
};

struct CompensateResult {
  std::vector<CompensatedLayer> layers;
  std::vector<std::string> skipped;  ///< module path and why
};

/// Rewrites the convolutions and linear layers of a cut network so that each reproduces, from the
/// inputs it still gets, what the layer computed in the uncut network: ridge regression in closed
/// form, front to back, each layer seeing the inputs its corrected predecessors give.
///
/// Source   He, Zhang, Sun, "Channel Pruning for Accelerating Very Deep Neural Networks",
///          arXiv:1707.06168, §3.1 (2) (weights given the channels) and §3.1.2 (branches: the
///          target is the uncut sum minus the shortcut as it is now).
/// Symbols  X -> patches of the cut layer's input; Y -> target; W' -> weight.
/// Deviates Ridge towards the weights as cut instead of plain least squares; an intercept is fitted
///          too and goes to the bias, or to the batch norm that follows.
/// Shapes   inputs: those of the network, of all samples together, on the device of both networks;
///          cut is changed in place (its store must own its tensors).
/// Errors   internal when `cut` is not a cut of `uncut`.
/// Cost     one forward of each network over all samples at once; targets are kept in memory: about
///          the kept activations of all layers. Gram matrices in float64.
CompensateResult Compensate(const Network& uncut, const Plan& plan, Network& cut,
                            const std::vector<Tensor>& inputs, const CompensateOptions& options);

}  // namespace espalier

#pragma once

#include <memory>
#include <string>
#include <vector>

#include "env/data/dataset.h"
#include "env/graph/executor.h"
#include "env/task/task.h"

namespace espalier {

struct EvalOptions {
  int64_t batch_size = 250;  ///< at most: InferenceBatch on the fast path, FittingBatch else
  int64_t limit = 0;         ///< first N samples; 0 = all
  bool fast = true;  ///< inference rewrite (folded batch-norm, channels_last, fused kernels)
  /// Of the fast path. bfloat16 shifts logits by about 1 %: right for ranking candidates, not for
  /// the figure that is reported.
  at::ScalarType dtype = at::kFloat;
};

/// Samples a fast forward takes at a time, up to `most`: no more than fit into memory
/// (FittingBatch), and in float32 on a CPU about what its caches hold, yet at least 64. Other types
/// lose more by many calls than they gain.
int64_t InferenceBatch(const Network& network, int64_t most, at::ScalarType dtype,
                       at::Device device);

/// A network's figure and mean loss on samples, no augmentation.
///
/// statistics: where to put what each sample adds (Metric::Statistics, [N, K]); null = nowhere.
///
/// Errors   kModel, kData when the outputs do not fit the task; kConfig without samples.
Score Evaluate(const Network& network, const Dataset& samples, const Task& task = {},
               const EvalOptions& options = {}, Tensor* statistics = nullptr);

/// A compiled copy of a network for inference: batch-norm folded into the layer before it,
/// channels_last, activations and residual adds fused into oneDNN's convolution. The Network is
/// untouched. Equal to the plain path up to float rounding (about 2e-7 of the largest value). Falls
/// back op by op where a pattern does not match; on other devices than CPU nothing is fused, and
/// only batch-norm is folded.
///
/// Threads  Run is const and may be called concurrently; copies share the compiled network.
/// Cost     making one takes a forward of 2 images.
class InferenceNetwork {
 public:
  /// dtype kFloat leaves every tensor's type as it is; kBFloat16 casts weights and inputs.
  explicit InferenceNetwork(const Network& network, at::ScalarType dtype = at::kFloat);
  std::vector<Tensor> Run(const std::vector<Tensor>& inputs) const;  ///< without gradients
  Tensor Run(const Tensor& input) const { return Run(std::vector<Tensor>{input}).front(); }
  int64_t fused_ops() const { return fused_; }  ///< ops of the network that are gone
  const Network& network() const { return compiled_->network; }  ///< the rewritten copy

 private:
  struct Compiled {
    explicit Compiled(Network rewritten);
    const Network network;
    const Executor executor;  // refers to network.graph
    const Binding binding;
  };
  at::ScalarType dtype_;
  int64_t fused_ = 0;  // before compiled_, whose making sets it
  std::shared_ptr<const Compiled> compiled_;
};

/// Re-estimates batch-norm running statistics with `batches` batches of the loader: the plain
/// average of their means and unbiased variances. Everything else runs in eval mode. The store gets
/// fresh statistics; other copies of the network keep theirs.
void RecalibrateBatchNorm(Network& network, Loader& loader, int64_t batches);

}  // namespace espalier

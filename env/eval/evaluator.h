#pragma once

#include <memory>
#include <string>
#include <vector>

#include "env/data/dataset.h"
#include "env/graph/executor.h"

namespace espalier {

struct Accuracy {
  double value = 0;           ///< top-1, 0..1
  double standard_error = 0;  ///< sqrt(p (1 - p) / n)
  int64_t images = 0;
  double seconds = 0;
  double loss = 0;  ///< mean cross-entropy
};

struct EvalOptions {
  int64_t batch_size = 250;
  int64_t limit = 0;  ///< first N images; 0 = all
  bool fast = true;   ///< inference rewrite (folded batch-norm, channels_last, fused kernels)
  /// Of the fast path. bfloat16 shifts logits by about 1 %: right for ranking candidates, not for
  /// the figure that is reported.
  at::ScalarType dtype = at::kFloat;
};

/// Accuracy of a network on images, no augmentation.
///
/// Errors   kModel when the first output is not [batch, classes].
Accuracy Evaluate(const Network& network, const Splits& splits, const ImageSet& images,
                  const EvalOptions& options = {});

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
  Tensor Run(const Tensor& input) const;        ///< first output, without gradients
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

/// Re-estimates batch-norm running statistics with `batches` training batches: the plain average of
/// their means and unbiased variances. Everything else runs in eval mode. The store gets fresh
/// statistics; other copies of the network keep theirs.
void RecalibrateBatchNorm(Network& network, const Splits& splits, int64_t batches,
                          int64_t batch_size, bool augment, uint64_t seed);

}  // namespace espalier

#pragma once

#include <string>
#include <vector>

#include "env/data/dataset.h"
#include "env/graph/executor.h"
#include "env/space/plan.h"

namespace espalier {

struct Accuracy {
  double value = 0;           ///< top-1, 0..1
  double standard_error = 0;  ///< sqrt(p (1 - p) / n)
  int64_t images = 0;
  double seconds = 0;
  double loss = 0;            ///< mean cross-entropy
};

struct EvalOptions {
  int64_t batch_size = 250;
  int64_t limit = 0;       ///< first N images; 0 = all
  bool fast = true;        ///< inference rewrite (folded batch-norm, channels_last, fused kernels)
};

/// Accuracy of a network on images, no augmentation.
Accuracy Evaluate(const Network& network, const Splits& splits, const ImageSet& images,
                  const EvalOptions& options = {});

/// A compiled copy of a network for inference: batch-norm folded into the convolution before it,
/// channels_last, ReLU and residual add fused into oneDNN's convolution. The Network is untouched.
/// Equal to the plain path up to float rounding (about 2e-7). Falls back op by op where a pattern
/// does not match.
class InferenceNetwork {
 public:
  explicit InferenceNetwork(const Network& network);
  Tensor Run(const Tensor& input) const;  ///< first output
  int64_t fused_ops() const { return fused_; }

 private:
  Network network_;
  std::shared_ptr<const Executor> executor_;
  std::shared_ptr<const Binding> binding_;
  int64_t fused_ = 0;
};

/// Re-estimates batch-norm running statistics with `batches` training batches (cumulative average),
/// in place.
void RecalibrateBatchNorm(Network& network, const Splits& splits, int64_t batches,
                          int64_t batch_size, bool augment, uint64_t seed);

}  // namespace espalier

#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "env/graph/executor.h"
#include "env/graph/network.h"
#include "env/space/space.h"

namespace espalier {

/// Moves non-negative gates into the batch norm before them: lambda * relu(gamma x^ + beta) is
/// relu((lambda gamma) x^ + lambda beta). The product and its two backward passes over the
/// activations disappear; the batch norm's own backward gives the gate's gradient.
///
/// A gate is folded when every read of its value carries the same gate and only ReLU and max
/// pooling stand between it and an eval-mode batch norm whose weight and bias nobody else reads.
/// Equal to the gated run up to rounding.
class GateFolding {
 public:
  /// reads: those of the Space of this network, in order.
  GateFolding(const Network& network, const std::vector<ReadPoint>& reads);

  /// gates[i] stands at reads[i]: removes those that are folded, and sets the scaled weights and
  /// biases in `store`, which otherwise holds what `original` holds. Bind afterwards.
  void Apply(const ParameterStore& original, std::vector<Gate>& gates, ParameterStore& store) const;

  int64_t folded() const { return static_cast<int64_t>(folds_.size()); }  ///< values, not reads

 private:
  struct Fold {
    size_t read;  // any read of the value: all carry the same gate
    std::string weight, bias;
  };
  std::vector<Fold> folds_;
  std::vector<bool> removed_;  // by read
};

}  // namespace espalier

#pragma once

#include <string>
#include <utility>
#include <vector>

#include "env/graph/network.h"

namespace espalier {

using NamedTensor = std::pair<std::string, Tensor>;

/// A term on the weights beside the loss of a training, with a memory that its checkpoints keep.
class WeightPenalty {
 public:
  virtual ~WeightPenalty() = default;
  virtual std::string Name() const = 0;      ///< for messages: "the regulariser 'growing'"
  virtual std::string Identity() const = 0;  ///< all settings: part of the training's identity
  /// The weights it acts on, which change in place from step to step. Called first, once, with the
  /// weights a training starts from, also when it then goes on from a checkpoint.
  virtual void Attach(const ParameterStore& weights) = 0;
  virtual Tensor Value() = 0;  ///< what is added to the loss of a step: [], differentiable
  virtual void EndEpoch(int64_t epoch) = 0;  ///< epoch: finished ones, 1-based
  /// Handles of all that shapes later steps, for checkpoints.
  virtual std::vector<NamedTensor> State() const = 0;
};

}  // namespace espalier

#pragma once

#include <map>
#include <string>
#include <vector>

#include "env/cost/latency_model.h"
#include "env/eval/inference_rewrite.h"
#include "env/space/plan.h"

namespace espalier {

/// One op alone: a network without inputs, whose stored tensors are the op's arguments.
struct OpCall {
  Network network;
  std::vector<std::string> fresh;  ///< arguments that are activations
  std::string key;  ///< equal for calls that do the same work: operator, literals, shapes, strides
};

/// The ops of a network as it is run for inference (folded, fused, channels_last), each at any
/// kept counts: what the op reads there, by shape, memory order and literals. Values are made up.
///
/// Cost     making one: two forwards; a call: a copy of what the op reads.
class OpCalls {
 public:
  /// The space must outlive this.
  OpCalls(const Space& space, int64_t batch, at::ScalarType dtype, at::Device device);

  /// What an op's time depends on.
  struct Facts {
    bool measured = false;          ///< false: computes sizes or returns nothing
    bool heavy = false;             ///< reads weights or multiplies matrices
    bool view = false;              ///< makes another view of what is there: no work at any width
    std::vector<int32_t> groups;    ///< that a size follows, ascending
    std::vector<AxisCount> axes;    ///< that follow them; no two alike
    LatencyModel::Width elements;   ///< of all tensors it reads and makes; terms index `axes`
    std::vector<int32_t> branches;  ///< groups of the residual branches it goes with, ascending
  };
  const std::vector<Facts>& facts() const { return facts_; }
  std::string Name(size_t op) const;  ///< "aten::linear at 'blocks.0.mlp.fc1'"

  /// kept: [groups], whole and multiples of the blocks.
  OpCall At(size_t op, const std::vector<int64_t>& kept) const;

 private:
  struct ValueLayout {
    bool tensor = false;
    std::optional<int64_t> scalar;
    std::vector<int64_t> sizes, strides;  // of the uncut network
    at::ScalarType dtype = at::kFloat;
    const void* memory = nullptr;
    std::vector<AxisCount> axes;  // per axis; no terms = rigid
  };
  void Record(int64_t batch, at::ScalarType dtype);
  void FollowCuts(const std::map<std::string, InferenceRewrite::Origin>& origins);
  void FollowBranches(const std::map<std::string, InferenceRewrite::Origin>& origins);
  Facts FactsOf(size_t op) const;
  int64_t SizeAt(const ValueLayout& layout, size_t axis, std::span<const double> kept) const;
  Tensor Make(ValueId id, std::span<const double> kept) const;
  const std::vector<ArgEdit>& EditsAt(const std::vector<int64_t>& kept) const;

  const Space& space_;
  const at::Device device_;
  std::vector<int64_t> units_;
  std::vector<double> full_;  // the same
  Network network_;
  std::vector<ValueLayout> layouts_;  // by value
  std::vector<bool> edited_;          // by op: literals follow cuts
  std::vector<Facts> facts_;
  mutable std::map<std::vector<int64_t>, std::vector<ArgEdit>> edits_;
};

}  // namespace espalier

#pragma once

#include "criteria/members.h"

namespace espalier {

struct ObsConfig {
  double damping = 0.01;  ///< added to H's diagonal, relative to its mean; > 0; SparseGPT: 0.01
  std::string reduce = "sum";  ///< over the group's consumers
  /// The unit's columns together; false: each for itself, added up, as if the others were there.
  bool joint = true;
};
Schema Describe(ObsConfig& config);

/// Structured optimal brain surgery: the error in every consumer's outputs when the columns that
/// read the unit go and the consumer's other columns make up for it.
///
/// Source   Frantar, Alistarh, "SparseGPT", arXiv:2301.00774 (H = 2 E x x^T of
///          a layer's inputs, damping); Kurtic et al., arXiv:2203.07259, for removing
///          several weights at once.
/// Symbols  Q -> the unit's columns; P = H^-1.
/// Deviates Whole columns: sum over rows of w_Q (P_QQ)^-1 w_Q^T / 2, or with joint = false of
///          w_q^2 / (2 P_qq) over q in Q; added up over the group's consumers. Consumers too wide
///          for a Gram matrix use H's diagonal: sum of w_Q^2 H_QQ / 2. Where no convolution or
///          linear layer reads the group (a branch that is added to its trunk, an attention's
///          queries) nothing can make up for a unit: E x^2. The compensation is
///          CompensateConsumers' (compensation.h).
/// Units    squared error of layer outputs; >= 0; comparable across groups of similar depth.
/// Errors   internal: empty group; kModel naming a group whose units no activation carries.
/// Cost     one forward a batch, a Gram matrix and its inverse for each consumer.
class Obs final : public Criterion {
 public:
  explicit Obs(const ObsConfig& config) : config_(config) {}
  Needs needs() const override { return {Need::kForward, Need::kGram}; }
  Tensor Score(const GroupView& group, uint64_t seed) const override;

 private:
  Tensor ScoreSlice(const GroupView& group, const GroupView::Slice& slice) const;
  const ObsConfig config_;
};

}  // namespace espalier

#pragma once

#include "criteria/members.h"

namespace espalier {

struct ModegptConfig {
  double ridge = 0.01;         ///< lambda relative to the mean diagonal of C; > 0
  std::string reduce = "sum";  ///< over the group's consumers; of type II of the squares
};
Schema Describe(ModegptConfig& config);

/// Scores units by how hard it is to rebuild what they carry from the units that stay.
///
///   units that linear layers and convolutions read   ridge leverage (Nystrom, type I)
///   dims of an attention's queries and keys          sqrt of their energies' product (CR, type II)
///
/// Source   Lin et al., "MoDeGPT", arXiv:2408.09632, types I and II.
/// Symbols  C -> GramStatistics::gram; C_q, C_k -> energies where queries and keys meet.
/// Deviates A unit of several columns (a kernel's taps, a flattened map) gets the trace of its
///          block; several consumers add up. A unit of several dims (rotary pairs) gets the root of
///          the sum, as the paper does. Units that are added to a trunk cannot be rebuilt: their
///          matrix is its diagonal. Type III (singular values of values and outputs) makes new
///          directions instead of choosing units: TurnValues (value_basis.h), after which they are
///          units. The compensation is CompensateConsumers' (compensation.h).
/// Units    leverages in [0, 1) a column; activations squared for dims; comparable within a group.
/// Errors   internal: empty group; kModel naming a group that neither form fits.
/// Cost     one forward a batch, a Gram matrix and its inverse for each consumer.
class Modegpt final : public Criterion {
 public:
  explicit Modegpt(const ModegptConfig& config) : config_(config) {}
  Needs needs() const override { return {Need::kForward, Need::kGram}; }
  Tensor Score(const GroupView& group, uint64_t seed) const override;

 private:
  Tensor Leverages(const GroupView& group, const GroupView::Slice& slice) const;
  const ModegptConfig config_;
};

}  // namespace espalier

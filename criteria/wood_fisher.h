#pragma once

#include "criteria/members.h"

namespace espalier {

struct WoodFisherConfig {
  MemberConfig over;      ///< which members count and how they are joined
  double damping = 1e-7;  ///< lambda of F + lambda I; >= 0; the paper: 1e-7
};
Schema Describe(WoodFisherConfig& config);

/// Block Fisher pruning of whole units: the second-order change of the loss when a unit's block of
/// weights goes, with all cross terms inside the block.
///
/// Source   Kurtic et al., "The Optimal BERT Surgeon", arXiv:2203.07259: rho_Q = w_Q^T
///          (P_QQ)^-1 w_Q / 2 with P the inverse of F = lambda I + (1/m) sum_s g_s g_s^T; Singh,
///          Alistarh, "WoodFisher", arXiv:2004.14340.
/// Symbols  lambda -> damping, m -> samples.
/// Deviates Structured: a block is what one unit owns of one parameter, whatever its size. Q is
/// then
///          the whole block, so (P_QQ)^-1 is F itself and rho = (lambda |w|^2 + mean_s (w . g_s)^2)
///          / 2, exactly and without an inverse; nothing of the block is left to compensate. For
///          parts of blocks see second_order.h.
/// Units    of the loss; >= 0; comparable across groups.
/// Errors   internal: empty group; kModel: a group of which no member is scored.
/// Cost     a forward and backward of each sample.
class WoodFisher final : public Criterion {
 public:
  explicit WoodFisher(const WoodFisherConfig& config) : config_(config) {}
  Needs needs() const override { return {Need::kSampleGradient}; }
  Tensor Score(const GroupView& group, uint64_t seed) const override;

 private:
  const WoodFisherConfig config_;
};

}  // namespace espalier

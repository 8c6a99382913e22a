#pragma once

#include "criteria/members.h"

namespace espalier {

struct TaylorConfig {
  MemberConfig over;                ///< which members count and how they are joined
  std::string mode = "element_1";   ///< vector, squared, element_1, element_2, mixed
  std::string accumulate = "auto";  ///< signed, batch, sample; auto: signed, of element_2 sample
};
Schema Describe(TaylorConfig& config);

/// Estimates how much the loss changes without a unit from weights times gradients.
///
///   vector     |sum_i w_i g_i|              cancels inside a member
///   squared    (sum_i w_i g_i)^2
///   element_1  sum_i |w_i g_i|
///   element_2  sum_i w_i^2 F_i              F = mean over samples of g^2
///   mixed      sum_i |w_i g_i - w_i^2 F_i / 2|
/// accumulate says what g is: signed takes the mean gradient first and its absolute value (or
/// square) after; batch and sample take the mean of the absolute values (or squares) of every
/// batch's or sample's own. F is of samples whatever g is, so that element_2 knows sample only and
/// mixed no batch; mixed by sample is the mean of |w_i g_i - (w_i g_i)^2 / 2|, each sample's own F.
///
/// Source   Ma et al., "LLM-Pruner", arXiv:2305.11627 (vector, element, mixed); Molchanov et
///          al., "Importance Estimation for Neural Network Pruning", arXiv:1906.10771
///          (squared, there per batch).
/// Symbols  F -> ParameterStatistics::fisher.
/// Units    of the loss (squared: its square); >= 0; comparable across groups.
/// Errors   kConfig: an accumulate that the mode does not know; internal: empty group; kModel: a
///          group of which no member is scored.
/// Cost     one forward and backward a batch; sample: one of each sample; mixed, signed: both.
class Taylor final : public Criterion {
 public:
  explicit Taylor(const TaylorConfig& config);
  Needs needs() const override;
  Tensor Score(const GroupView& group, uint64_t seed) const override;

 private:
  Tensor ScoreSlice(const GroupView::Slice& slice) const;
  Tensor Products(const GroupView::Slice& slice, bool squared) const;
  const TaylorConfig config_;
};

}  // namespace espalier

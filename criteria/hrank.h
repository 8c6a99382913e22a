#pragma once

#include "criteria/members.h"

namespace espalier {

struct HrankConfig {
  std::string reduce = "mean";  ///< over the places where the group is read
};
Schema Describe(HrankConfig& config);

/// Scores a channel by the average rank of its feature maps: maps of low rank carry little.
///
/// Source   Lin et al., "HRank: Filter Pruning using High-Rank Feature Map", arXiv:2002.10179,
///          the mean over images of Rank(o(I, j)).
/// Deviates Maps are taken where the channel is read, after normalisation and activation. Units
///          without a spatial map (linear layers) count how often they are not zero: the rank of a
///          1 x 1 map. At most max_rank_samples images of a batch are looked at.
/// Units    rank; >= 0; comparable among maps of equal size.
/// Errors   internal: empty group; kModel naming a group that has no such map.
/// Cost     one forward a batch and a singular value decomposition of every map.
class Hrank final : public Criterion {
 public:
  explicit Hrank(const HrankConfig& config) : config_(config) {}
  Needs needs() const override { return {Need::kRank}; }
  Tensor Score(const GroupView& group, uint64_t seed) const override;

 private:
  const HrankConfig config_;
};

}  // namespace espalier

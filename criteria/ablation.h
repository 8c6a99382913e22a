#pragma once

#include "criteria/criterion.h"

namespace espalier {

struct AblationConfig {};
inline Schema Describe(AblationConfig&) { return {}; }

/// The oracle: the exact increase of the loss over the calibration batches when the unit alone is
/// masked where it is read.
///
/// Source   the definition that gradient criteria approximate; for whole blocks Kim et al.,
///          "Shortened LLaMA", arXiv:2402.02834 (see MaskedLosses).
/// Units    of the loss; negative where the network is better without the unit; comparable across
///          groups.
/// Cost     a forward for each unit and batch: the most expensive criterion there is.
class Ablation final : public Criterion {
 public:
  explicit Ablation(const AblationConfig& /*config*/) {}
  Needs needs() const override { return {Need::kAblation}; }
  Tensor Score(const GroupView& group, uint64_t seed) const override;
};

/// The `count` blocks with the lowest scores, lowest first; the first and last few are protected.
///
/// Source   arXiv:2402.02834: "+" criteria never take the first 4 and the last 2 blocks.
std::vector<int64_t> LowestBlocks(const std::vector<double>& scores, int64_t count,
                                  int64_t protect_first, int64_t protect_last);

}  // namespace espalier

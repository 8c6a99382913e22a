#pragma once

#include "criteria/criterion.h"

namespace espalier {

struct AblationConfig {};
inline Schema Describe(AblationConfig&) { return {}; }

/// The oracle: the exact increase of what the task makes small (Calibration::objective) over the
/// calibration batches when the unit alone is masked where it is read. No gradient is taken, so
/// that tasks without labels measure their own distance from the uncut network.
///
/// Source   the definition that gradient criteria approximate; for residual branches ([space]
///          depth) Kim et al., "Shortened LLaMA", arXiv:2402.02834, where the first and last few
///          are protected (ScopeConfig::protect_first).
/// Units    of the objective; negative where the network is better without the unit; comparable
///          across groups.
/// Cost     a forward for each unit and batch: the most expensive criterion there is.
class Ablation final : public Criterion {
 public:
  explicit Ablation(const AblationConfig& /*config*/) {}
  Needs needs() const override { return {Need::kAblation}; }
  Tensor Score(const GroupView& group, uint64_t seed) const override;
};

}  // namespace espalier

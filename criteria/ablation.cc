#include "criteria/ablation.h"

#include <ATen/ATen.h>

namespace espalier {

Tensor Ablation::Score(const GroupView& group, uint64_t /*seed*/) const {
  ESPALIER_CHECK(group.units > 0 && !group.slices.empty(), "group '", group.name, "' is empty");
  ESPALIER_CHECK(group.ablation.defined(), "group '", group.name, "': nothing was masked");
  return group.ablation;
}

ESPALIER_REGISTER_CRITERION(Ablation, AblationConfig,
                            {.name = "ablation",
                             .summary = "the oracle: loss increase with the unit masked",
                             .source = "definition; arXiv:2402.02834",
                             .facts = {kAcrossGroups, "deterministic"}})

}  // namespace espalier

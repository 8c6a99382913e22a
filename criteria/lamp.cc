#include "criteria/lamp.h"

#include <ATen/ATen.h>

#include "criteria/normalise.h"

namespace espalier {

Schema Describe(LampConfig& config) {
  Schema schema;
  AddMemberFields(schema, config.over);
  return schema;
}

Tensor Lamp::Score(const GroupView& group, uint64_t /*seed*/) const {
  const Tensor squares = ScoreMembers(
      group, config_.over, [](const GroupView::Slice& slice) { return slice.SumPowers(2); });
  const auto* first = squares.const_data_ptr<double>();
  // W[u]^2 over the sum of W[v]^2 for all v with W[v] >= W[u].
  return at::tensor(Normalise({first, static_cast<size_t>(squares.numel())}, Normaliser::kLamp),
                    at::kDouble);
}

ESPALIER_REGISTER_CRITERION(Lamp, LampConfig,
                            {.name = "lamp",
                             .summary = "w^2 relative to all units of the group that are larger",
                             .source = "arXiv:2010.07611",
                             .facts = {kDataFree, kAcrossGroups, "deterministic"}})

}  // namespace espalier

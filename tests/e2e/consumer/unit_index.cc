#include <ATen/ATen.h>

#include "criteria/criterion.h"

namespace consumer {

struct UnitIndexConfig {
  double offset = 0;
};
espalier::Schema Describe(UnitIndexConfig& config) {
  return espalier::Schema().Add("offset", &config.offset, "added to every score");
}

/// Scores a unit by its index: enough to see that the registry took it.
class UnitIndex final : public espalier::Criterion {
 public:
  explicit UnitIndex(const UnitIndexConfig& config) : config_(config) {}
  at::Tensor Score(const espalier::GroupView& group, uint64_t /*seed*/) const override {
    return at::arange(group.units, at::kDouble) + config_.offset;
  }

 private:
  const UnitIndexConfig config_;
};

ESPALIER_REGISTER_CRITERION(UnitIndex, UnitIndexConfig,
                            {.name = "unit_index", .summary = "the index", .source = "ours"})

}  // namespace consumer

#include "criteria/compensation.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <map>
#include <set>

#include "criteria/consumer_columns.h"
#include "criteria/second_order.h"
#include "env/base/error.h"

namespace espalier {
namespace {

/// Columns of every consumer's weight that leave, over all groups.
std::map<std::string, std::set<int64_t>> RemovedColumns(const Space& space,
                                                        const ParameterStore& store,
                                                        const Selection& selection,
                                                        std::set<std::string>& skipped) {
  const std::vector<uint8_t> mask = EffectiveMask(space, UnitMask(space, selection));
  std::map<std::string, std::set<int64_t>> removed;
  for (size_t g = 0; g < space.groups().size(); ++g) {
    const Group& group = space.groups()[g];
    for (const Member& member : group.members) {
      if (member.role != MemberRole::kConsumer ||
          store.Kind(member.parameter) != StoreKind::kParameter)
        continue;
      std::set<int64_t> columns;
      const Tensor& weight = store.Get(member.parameter);
      const bool plain = member.axis == 1 && member.blocks == 1 && weight.dim() >= 2;
      bool any = false;
      const UnitLayout layout(group.name, group.units, member);
      const auto by_unit =
          plain ? ColumnsByUnit(layout, weight)
                : std::vector<std::vector<int64_t>>(static_cast<size_t>(group.units));
      for (size_t unit = 0; unit < by_unit.size(); ++unit) {
        if (mask[static_cast<size_t>(space.unit_offset(g)) + unit] != 0) continue;
        any = true;
        columns.insert(by_unit[unit].begin(), by_unit[unit].end());
      }
      if (any && !plain)
        skipped.insert(member.parameter);
      else if (any)
        removed[member.parameter].merge(columns);
    }
  }
  return removed;
}

}  // namespace

Compensation CompensateConsumers(const Space& space, const ParameterStore& store,
                                 const Selection& selection, const Statistics& statistics,
                                 double ridge) {
  const at::NoGradGuard no_grad;
  if (!statistics.collected.contains(Need::kGram))
    throw Error(ErrorKind::kConfig, "compensation needs gram statistics", "calibrate with them");
  Compensation result{.store = store, .layers = {}, .skipped = {}};
  std::set<std::string> skipped;
  const auto removed = RemovedColumns(space, store, selection, skipped);
  for (const auto& [name, columns] : removed) {
    if (columns.empty()) continue;
    const auto found = statistics.grams.find(name);
    if (found == statistics.grams.end() || !found->second.gram.defined()) {
      skipped.insert(name);
      continue;
    }
    const Tensor& weight = store.Get(name);
    const Tensor rows = weight.to(at::kCPU, at::kDouble).reshape({weight.size(0), -1});
    const Tensor inverse = InverseOf(Damp(found->second.gram, ridge));
    const Tensor moved =
        RemoveWeights(rows, inverse, {columns.begin(), columns.end()}, /*joint=*/true);
    // Removed columns keep their values: the cut drops them, and a mask hides them.
    const Tensor gone = at::tensor(std::vector<int64_t>(columns.begin(), columns.end()), at::kLong);
    const Tensor whole = moved.index_copy(1, gone, rows.index_select(1, gone));
    result.store.Set(name, whole.reshape(weight.sizes()).to(weight.options()));
    result.layers.push_back(name);
  }
  result.skipped.assign(skipped.begin(), skipped.end());
  return result;
}

}  // namespace espalier

#include "criteria/ablation.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>

namespace espalier {

Tensor Ablation::Score(const GroupView& group, uint64_t /*seed*/) const {
  ESPALIER_CHECK(group.units > 0 && !group.slices.empty(), "group '", group.name, "' is empty");
  ESPALIER_CHECK(group.ablation.defined(), "group '", group.name, "': nothing was masked");
  return group.ablation;
}

std::vector<int64_t> LowestBlocks(const std::vector<double>& scores, int64_t count,
                                  int64_t protect_first, int64_t protect_last) {
  const int64_t free = static_cast<int64_t>(scores.size()) - protect_first - protect_last;
  if (count < 0 || count > free)
    throw Error(ErrorKind::kConfig,
                Str("cannot take ", count, " of ", scores.size(), " blocks with the first ",
                    protect_first, " and the last ", protect_last, " protected"));
  std::vector<int64_t> order(static_cast<size_t>(free));
  std::iota(order.begin(), order.end(), protect_first);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return scores[static_cast<size_t>(a)] < scores[static_cast<size_t>(b)];
  });
  order.resize(static_cast<size_t>(count));
  return order;
}

ESPALIER_REGISTER_CRITERION(Ablation, AblationConfig,
                            {.name = "ablation",
                             .summary = "the oracle: loss increase with the unit masked",
                             .source = "definition; arXiv:2402.02834",
                             .facts = {kAcrossGroups, "deterministic"}})

}  // namespace espalier

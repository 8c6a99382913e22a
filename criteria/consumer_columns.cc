#include "criteria/consumer_columns.h"

#include <ATen/ATen.h>

namespace espalier {

std::vector<std::vector<int64_t>> ColumnsByUnit(const UnitLayout& layout, const Tensor& weight) {
  const Member& member = layout.member();
  const int64_t kernel = weight.numel() / (weight.size(0) * weight.size(1));
  std::vector<std::vector<int64_t>> columns(static_cast<size_t>(layout.units()));
  for (size_t i = 0; i < member.indices.size(); ++i) {
    const size_t unit =
        static_cast<size_t>(member.first_unit) + i / static_cast<size_t>(member.per_unit);
    for (int64_t tap = 0; tap < kernel; ++tap)
      columns[unit].push_back(member.indices[i] * kernel + tap);
  }
  return columns;
}

Tensor WeightedEnergy(const GroupView::Slice& slice) {
  const Tensor weight = slice.weight.to(at::kCPU, at::kDouble);
  const Tensor rows = weight.reshape({weight.size(0), -1});
  return slice.layout.Sum((rows.square() * slice.gram->diagonal).reshape(weight.sizes()));
}

}  // namespace espalier

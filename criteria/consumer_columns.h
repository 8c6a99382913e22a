#pragma once

#include <vector>

#include "criteria/group_view.h"

namespace espalier {

/// Columns of a consumer's weight, seen as [rows, columns], that read each unit of a group:
/// [units][columns]. With a kernel, coordinate c owns c * kernel .. (c + 1) * kernel - 1.
std::vector<std::vector<int64_t>> ColumnsByUnit(const UnitLayout& layout, const Tensor& weight);

/// Whether a slice's weight is one whose columns the Gram statistics describe.
inline bool HasGram(const GroupView::Slice& slice) {
  return slice.gram != nullptr && slice.gram->diagonal.defined() &&
         slice.layout.member().axis == 1 && slice.layout.member().blocks == 1;
}

/// sum over rows o and the unit's columns j of w_oj^2 E x_j^2: [units] float64, CPU.
Tensor WeightedEnergy(const GroupView::Slice& slice);

}  // namespace espalier

#pragma once

#include <functional>
#include <string>
#include <vector>

#include "criteria/group_view.h"
#include "env/base/tensor.h"

namespace espalier {

/// The weights that leave with each unit, all units at once and differentiable: what a term of a
/// training loss is made of. Holds handles: the weights may change in place.
///
/// Shapes   per unit: [total units] in global unit order, of the weights' dtype and device.
/// Cost     Sum: a few operators for each parameter, memory of one copy of it.
class UnitWeights {
 public:
  using Counts = std::function<bool(const GroupView::Slice&)>;
  /// store: of the space's network or of one with other weights. counts: which members matter.
  /// Errors: kModel when none of the network's does.
  UnitWeights(const Space& space, const ParameterStore& store, const Counts& counts);

  /// Sum of each unit's entries of function(weight), an elementwise function. Units without a
  /// weight that counts get 0.
  Tensor Sum(const std::function<Tensor(const Tensor& weight)>& function) const;
  /// How far each unit's value lies below the largest of its group, as a share of the group's
  /// range: 0 for the largest, 1 for the least, 0 in groups of equal values.
  Tensor Shortfall(const Tensor& values) const;
  Tensor LargestOfGroup(const Tensor& values) const;  ///< for each unit
  int64_t units() const { return units_; }
  at::TensorOptions options() const;  ///< of values for each unit

 private:
  /// Where units lie in one parameter.
  struct Place {
    size_t parameter = 0;
    Member member;
    Tensor coordinates;  // of the sums along the axis that belong to units; undefined = all
  };
  Tensor Extreme(const Tensor& values, c10::string_view which) const;

  int64_t units_ = 0, groups_ = 0;
  std::vector<Tensor> parameters_;
  std::vector<Place> places_;
  Tensor unit_;   // [sum of the places' coordinates] global unit
  Tensor group_;  // [total units]
};

}  // namespace espalier

#pragma once

#include <memory>
#include <string>
#include <vector>

#include "criteria/axis_sums.h"
#include "env/base/tensor.h"
#include "env/space/space.h"

namespace espalier {

/// Where the units of a group lie in tensors shaped like one member's parameter: the only place
/// that knows flattened features, grouped convolutions, permuted channels and runs of units.
///
/// Units    every result has a row or an entry for each unit of the group; units the member does
///          not touch get zeros.
/// Errors   kModel when the tensor does not hold the coordinates the space names.
class UnitLayout {
 public:
  UnitLayout() = default;
  UnitLayout(std::string group, int64_t units, Member member)
      : group_(std::move(group)),
        units_(units),
        member_(std::make_shared<const Member>(std::move(member))) {}
  /// Of one of the group's members, which has to outlive the layout: nothing is copied.
  UnitLayout(const Group& group, const Member& member)
      : group_(group.name), units_(group.units), member_(std::shared_ptr<void>(), &member) {}
  /// Row u of a parameter is unit u: for views made by hand.
  static UnitLayout Rows(const std::string& parameter, MemberRole role, int64_t units);

  const Member& member() const { return *member_; }
  int64_t units() const { return units_; }  ///< of the group

  /// values: shaped like the parameter, any float dtype -> [units, elements] float64, CPU: row u
  /// holds what leaves with unit u. Copies: meant for what a sum cannot say.
  Tensor Gather(const Tensor& values) const;
  /// -> [units] float64, CPU: the sum of each unit's entries, accumulated in float64 straight from
  /// float32 or float64 storage. The same for any number of threads.
  Tensor Sum(const Tensor& values) const;
  /// The same for |entry|^p, p > 0; p = 1 and p = 2 are the fast ones.
  Tensor SumPowers(const Tensor& values, double p) const;
  /// The same, from sums of `values` that several groups share.
  Tensor SumPowers(AxisSums& sums, const Tensor& values, double p) const;

 private:
  bool blocked() const { return member_->blocks > 1 && member_->axis != 0; }
  void Check(const Tensor& values) const;
  Tensor ToUnits(std::vector<double> by_coordinate) const;
  template <typename Function>
  Tensor SumOf(const Tensor& values, Function function) const;

  std::string group_;
  int64_t units_ = 0;
  std::shared_ptr<const Member> member_;
};

}  // namespace espalier

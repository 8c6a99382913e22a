#pragma once

#include <string>
#include <vector>

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
      : group_(std::move(group)), units_(units), member_(std::move(member)) {}
  /// Row u of a parameter is unit u: for views made by hand.
  static UnitLayout Rows(const std::string& parameter, MemberRole role, int64_t units);

  const Member& member() const { return member_; }
  int64_t units() const { return units_; }  ///< of the group

  /// values: shaped like the parameter, any float dtype -> [units, elements] float64, CPU: row u
  /// holds what leaves with unit u. Copies: meant for what a sum cannot say.
  Tensor Gather(const Tensor& values) const;
  /// -> [units] float64, CPU: the sum of each unit's entries, accumulated in float64 straight from
  /// float32 or float64 storage. The same for any number of threads.
  Tensor Sum(const Tensor& values) const;
  /// The same for |entry|^p, p > 0; p = 1 and p = 2 are the fast ones.
  Tensor SumPowers(const Tensor& values, double p) const;

 private:
  bool blocked() const { return member_.blocks > 1 && member_.axis != 0; }
  void Check(const Tensor& values) const;
  Tensor ToUnits(std::vector<double> by_coordinate) const;
  template <typename Function>
  Tensor SumOf(const Tensor& values, Function function) const;

  std::string group_;
  int64_t units_ = 0;
  Member member_;
};

}  // namespace espalier

#pragma once

#include <memory>
#include <string>
#include <vector>

#include "criteria/statistics.h"
#include "criteria/unit_layout.h"

namespace espalier {

/// One Group as a criterion sees it: its members' weights and what is known of them, by unit.
/// Borrows all tensors; nothing is copied.
struct GroupView {
  /// One parameter that belongs to the group.
  struct Slice {
    std::string parameter;  ///< canonical store name
    MemberRole role = MemberRole::kProducer;
    bool is_bias = false;              ///< every op reads it as its `bias` argument
    bool is_norm = false;              ///< every op reads it as the scale of a normalisation
    Tensor weight{};                   ///< the whole parameter as stored, any float dtype
    UnitLayout layout;                 ///< where the units lie in it, and in its statistics
    std::shared_ptr<AxisSums> sums{};  ///< of the weight, shared with other groups' slices
    const ParameterStatistics* statistics = nullptr;  ///< when gradients were collected
    const ProductStatistics* products = nullptr;      ///< the same
    const GramStatistics* gram = nullptr;             ///< of a consumer, when Grams were collected

    Tensor SumPowers(double p) const {
      return sums ? layout.SumPowers(*sums, weight, p) : layout.SumPowers(weight, p);
    }
    Tensor Rows() const { return layout.Gather(weight); }  ///< [units, elements] float64
  };
  /// One place where the group's units are read.
  struct Read {
    const ReadStatistics* statistics = nullptr;
    std::string op;             ///< "aten::linear"
    std::vector<int64_t> unit;  ///< unit of the group at each coordinate; -1 = none of its own
    int64_t units = 0;
    Tensor Sum(const Tensor& by_coordinate) const;  ///< [coordinates] -> [units] float64
  };
  std::string name;
  std::string kind = "channel";
  int64_t units = 0;
  std::vector<Slice> slices;  ///< parameters only, in member order; buffers are not weights
  std::vector<Read> reads{};  ///< when forward statistics were collected
  Tensor ablation{};          ///< [units] float64, when collected
};

/// A slice whose weight has one row for each unit: for views made by hand.
GroupView::Slice MakeSlice(const std::string& parameter, MemberRole role, const Tensor& weight,
                           bool is_bias = false);

/// Views of all groups. The store may hold other weights of the same network. The views borrow from
/// space and statistics.
std::vector<GroupView> ViewGroups(const Space& space, const ParameterStore& store,
                                  const Statistics* statistics = nullptr);

}  // namespace espalier

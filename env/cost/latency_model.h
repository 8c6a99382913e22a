#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "env/space/space.h"

namespace espalier {

/// Milliseconds over a grid of widths: linear between neighbouring points, constant outside.
///
/// Staircases are kept where the grid has both sides of a step (16 and 17): between these two the
/// line is as steep as the step.
struct LatencyTable {
  std::vector<std::vector<double>> grid;  ///< for each of 0 to 2 widths: ascending, not empty
  std::vector<double> ms;                 ///< row-major over the grid
  double At(std::span<const double> widths) const;
  bool operator==(const LatencyTable&) const = default;
};

/// Milliseconds of one forward as a function of the kept counts of the Groups: what the ops of the
/// network take as it is run for inference, each from a table of its own widths, corrected so that
/// the sum fits whole networks.
///
/// Units    milliseconds of one batch on the device that was measured.
/// Cost     of an evaluation: a table look-up an op, microseconds in all.
class LatencyModel {
 public:
  /// What a table is looked up by: the sum of coefficient * product of axis counts.
  struct Term {
    double coefficient = 1;
    std::vector<int32_t> axes;  ///< into the list of axes
  };
  using Width = std::vector<Term>;
  struct Op {
    LatencyTable table;
    std::vector<Width> widths;  ///< as many as the table has
    /// Groups of residual branches: the op is there as long as they all are.
    std::vector<int32_t> branches{};
    bool heavy = false;  ///< reads weights: convolutions, products
    double times = 1;    ///< so many ops of the network are the same
  };
  struct Sums {
    double heavy_ms = 0, light_ms = 0;  ///< of ops that read weights, and of others
  };
  struct Correction {
    double heavy = 1, light = 1, overhead_ms = 0;
    double Ms(const Sums& sums) const {
      return heavy * sums.heavy_ms + light * sums.light_ms + overhead_ms;
    }
  };

  /// units: [groups]. Ops that look up equal tables by equal widths are merged.
  LatencyModel(std::vector<int64_t> units, std::vector<AxisCount> axes, std::vector<Op> ops);

  /// axes: those that the width's terms name.
  static double WidthAt(const Width& width, const std::vector<AxisCount>& axes,
                        std::span<const int64_t> units, std::span<const double> kept);
  Sums SumsAt(std::span<const double> kept) const;  ///< before the correction
  double Ms(std::span<const double> kept) const;    ///< kept: [groups], real counts allowed
  /// d ms / d kept: a staircase has no useful derivative, so this is the slope between 8 units less
  /// and 8 more of each group, as far as they exist; of a branch, what it takes. [groups]
  std::vector<double> Slope(std::span<const double> kept) const;

  void Correct(const Correction& correction) { correction_ = correction; }
  const Correction& correction() const { return correction_; }
  const std::vector<int64_t>& units() const { return units_; }
  const std::vector<Op>& ops() const { return ops_; }

 private:
  double OpMs(const Op& op, std::span<const double> kept) const;
  double Weight(const Op& op) const {
    return op.times * (op.heavy ? correction_.heavy : correction_.light);
  }

  std::vector<int64_t> units_;
  std::vector<AxisCount> axes_;
  std::vector<Op> ops_;
  std::vector<std::vector<int32_t>> ops_of_group_;  // [groups]: ops that follow the group
  std::vector<double> least_;                       // [groups]: 0 for branches
  Correction correction_;
};

/// The correction that fits measured networks best: least squares of the relative error, no
/// coefficient below zero; one factor for all ops and the overhead. Two factors, both positive, are
/// taken when they halve the squared error: the two sums rise and fall together, and noise would
/// trade one for the other. Below three measurements there is only the factor; without any nothing
/// changes.
LatencyModel::Correction FitCorrection(std::span<const LatencyModel::Sums> predicted,
                                       std::span<const double> measured_ms);

}  // namespace espalier

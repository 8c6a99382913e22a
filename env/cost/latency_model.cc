#include "env/cost/latency_model.h"

#include <Eigen/Dense>
#include <algorithm>
#include <array>
#include <limits>
#include <set>

#include "env/base/error.h"
#include "env/cost/axis_counts.h"

namespace espalier {
namespace {

struct Place {
  size_t low = 0, high = 0;
  double share = 0;  // of high
};

Place Locate(const std::vector<double>& grid, double width) {
  const auto above = std::upper_bound(grid.begin(), grid.end(), width);
  if (above == grid.begin()) return {};
  const auto low = static_cast<size_t>(above - grid.begin()) - 1;
  if (above == grid.end()) return {low, low, 0};
  return {low, low + 1, (width - grid[low]) / (grid[low + 1] - grid[low])};
}

bool SameWidths(const std::vector<LatencyModel::Width>& a,
                const std::vector<LatencyModel::Width>& b) {
  const auto same_term = [](const LatencyModel::Term& x, const LatencyModel::Term& y) {
    return x.coefficient == y.coefficient && x.axes == y.axes;
  };
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [&](const auto& x, const auto& y) {
    return std::equal(x.begin(), x.end(), y.begin(), y.end(), same_term);
  });
}

}  // namespace

double LatencyTable::At(std::span<const double> widths) const {
  ESPALIER_CHECK(widths.size() == grid.size() && grid.size() <= 2, widths.size(), " widths for ",
                 grid.size());
  if (grid.empty()) return ms.front();
  const Place row = Locate(grid[0], widths[0]);
  const auto line = [&](size_t at) {
    if (grid.size() == 1) return ms[at];
    const Place column = Locate(grid[1], widths[1]);
    const double* values = ms.data() + at * grid[1].size();
    return values[column.low] + column.share * (values[column.high] - values[column.low]);
  };
  const double low = line(row.low);
  return row.share == 0 ? low : low + row.share * (line(row.high) - low);
}

LatencyModel::LatencyModel(std::vector<int64_t> units, std::vector<AxisCount> axes,
                           std::vector<Op> ops)
    : units_(std::move(units)), axes_(std::move(axes)) {
  for (Op& op : ops) {
    ESPALIER_CHECK(op.widths.size() == op.table.grid.size(), op.widths.size(), " widths");
    const auto same = std::find_if(ops_.begin(), ops_.end(), [&](const Op& known) {
      return known.heavy == op.heavy && known.branches == op.branches && known.table == op.table &&
             SameWidths(known.widths, op.widths);
    });
    if (same != ops_.end())
      same->times += op.times;
    else
      ops_.push_back(std::move(op));
  }
  ops_of_group_.resize(units_.size());
  least_.assign(units_.size(), 1);
  for (size_t i = 0; i < ops_.size(); ++i) {
    std::set<int32_t> groups(ops_[i].branches.begin(), ops_[i].branches.end());
    for (const int32_t branch : groups) least_[static_cast<size_t>(branch)] = 0;
    for (const Width& width : ops_[i].widths)
      for (const Term& term : width)
        for (const int32_t axis : term.axes)
          groups.merge(GroupsOf(axes_[static_cast<size_t>(axis)]));
    for (const int32_t group : groups)
      ops_of_group_[static_cast<size_t>(group)].push_back(static_cast<int32_t>(i));
  }
}

double LatencyModel::WidthAt(const Width& width, const std::vector<AxisCount>& axes,
                             std::span<const int64_t> units, std::span<const double> kept) {
  double sum = 0;
  for (const Term& term : width) {
    double product = term.coefficient;
    for (const int32_t axis : term.axes)
      product *= CountOf(axes[static_cast<size_t>(axis)], units, kept);
    sum += product;
  }
  return sum;
}

double LatencyModel::OpMs(const Op& op, std::span<const double> kept) const {
  std::array<double, 2> widths{};
  for (size_t w = 0; w < op.widths.size(); ++w)
    widths[w] = WidthAt(op.widths[w], axes_, units_, kept);
  double ms = op.table.At(std::span(widths).first(op.widths.size()));
  for (const int32_t branch : op.branches) ms *= kept[static_cast<size_t>(branch)];
  return ms;
}

LatencyModel::Sums LatencyModel::SumsAt(std::span<const double> kept) const {
  ESPALIER_CHECK(kept.size() == units_.size(), kept.size(), " counts for ", units_.size(),
                 " groups");
  Sums sums;
  for (const Op& op : ops_) (op.heavy ? sums.heavy_ms : sums.light_ms) += op.times * OpMs(op, kept);
  return sums;
}

double LatencyModel::Ms(std::span<const double> kept) const { return correction_.Ms(SumsAt(kept)); }

std::vector<double> LatencyModel::Slope(std::span<const double> kept) const {
  constexpr double kWindow = 8;  // units to each side: half a block of the widest kernels
  std::vector<double> moved(kept.begin(), kept.end()), slope(units_.size(), 0);
  for (size_t g = 0; g < units_.size(); ++g) {
    const double low = std::max(std::min(least_[g], kept[g]), kept[g] - kWindow);
    const double high =
        std::min(std::max(static_cast<double>(units_[g]), kept[g]), kept[g] + kWindow);
    if (!(high > low)) continue;
    for (const int32_t i : ops_of_group_[g]) {
      const Op& op = ops_[static_cast<size_t>(i)];
      moved[g] = high;
      const double above = OpMs(op, moved);
      moved[g] = low;
      slope[g] += Weight(op) * (above - OpMs(op, moved)) / (high - low);
    }
    moved[g] = kept[g];
  }
  return slope;
}

LatencyModel::Correction FitCorrection(std::span<const LatencyModel::Sums> predicted,
                                       std::span<const double> measured_ms) {
  ESPALIER_CHECK(predicted.size() == measured_ms.size(), predicted.size(), " predictions for ",
                 measured_ms.size(), " measurements");
  const auto rows = static_cast<Eigen::Index>(predicted.size());
  if (rows == 0) return {};
  Eigen::MatrixX3d features(rows, 3);  // of measured = features * (heavy, light, overhead)
  for (Eigen::Index i = 0; i < rows; ++i) {
    const auto& sums = predicted[static_cast<size_t>(i)];
    features.row(i) << sums.heavy_ms, sums.light_ms, 1;
    features.row(i) /= measured_ms[static_cast<size_t>(i)];
  }
  const Eigen::VectorXd ones = Eigen::VectorXd::Ones(rows);
  // The columns of `by` times non-negative coefficients: few, so that the best of these are the
  // plain least squares of some subset of the columns.
  const auto fit = [&](const Eigen::Matrix3Xd& by) {
    Eigen::Vector3d best = Eigen::Vector3d::Zero();
    for (int subset = 1; subset < 1 << by.cols(); ++subset) {
      Eigen::Matrix3Xd chosen(3, 0);
      for (Eigen::Index c = 0; c < by.cols(); ++c)
        if (subset >> c & 1) {
          chosen.conservativeResize(3, chosen.cols() + 1);
          chosen.rightCols(1) = by.col(c);
        }
      const Eigen::VectorXd found = (features * chosen).colPivHouseholderQr().solve(ones);
      if (!(found.minCoeff() >= 0)) continue;
      const Eigen::Vector3d all = chosen * found;
      if ((features * all - ones).norm() < (features * best - ones).norm()) best = all;
    }
    return best;
  };
  Eigen::Matrix3Xd by(3, rows < 3 ? 1 : 2);
  by.col(0) << 1, 1, 0;
  if (rows >= 3) by.col(1) << 0, 0, 1;
  Eigen::Vector3d best = fit(by);
  const Eigen::Vector3d apart = fit(Eigen::Matrix3Xd::Identity(3, 3));
  const auto error = [&](const Eigen::Vector3d& c) { return (features * c - ones).squaredNorm(); };
  if (rows >= 6 && apart(0) > 0 && apart(1) > 0 && error(apart) < error(best) / 2) best = apart;
  return {best(0), best(1), best(2)};
}

}  // namespace espalier

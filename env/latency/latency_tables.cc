#include "env/latency/latency_tables.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <set>

#include "env/base/error.h"
#include "env/base/interrupt.h"
#include "env/base/log.h"
#include "env/cost/axis_counts.h"
#include "env/latency/width_grid.h"

namespace espalier {
namespace {

/// One direction of an op's grid: groups that keep the same share, and what the table is read by.
struct Direction {
  std::vector<int32_t> groups;
  LatencyModel::Width width;
  int64_t full = 0;  // the widest there is, in channels; 0: no channels, any eight shares do
};

class Tables {
 public:
  Tables(const Space& space, const OpCalls& calls, Meter& meter, LatencyCache& cache,
         MeasuredLatency& result)
      : space_(space), calls_(calls), meter_(meter), cache_(cache), result_(result) {
    for (const Group& group : space.groups()) {
      units_.push_back(group.units);
      axes_.push_back({0, {{.group = static_cast<int32_t>(axes_.size())}}});
    }
  }

  LatencyModel Make() {
    std::vector<LatencyModel::Op> ops;
    for (size_t op = 0; op < calls_.facts().size(); ++op)
      if (calls_.facts()[op].measured) {
        ThrowIfInterrupted("measuring latency");
        try {
          ops.push_back(OpTable(op));
        } catch (const Error& error) {
          if (error.kind() != ErrorKind::kModel) throw;
          result_.left_out.push_back(Str(calls_.Name(op), ": ", error.message()));
        }
      }
    return {units_, axes_, std::move(ops)};
  }

 private:
  static constexpr size_t kMostAlone = 24, kMostTogether = 8;  // points of a width

  int32_t AxisId(const AxisCount& axis) {
    const auto known = std::find(axes_.begin(), axes_.end(), axis);
    if (known != axes_.end()) return static_cast<int32_t>(known - axes_.begin());
    axes_.push_back(axis);
    return static_cast<int32_t>(axes_.size() - 1);
  }

  /// Up to two groups: their kept counts. More: its axes, if there are two that share no group;
  /// else the elements the op touches.
  std::vector<Direction> DirectionsOf(const OpCalls::Facts& facts) {
    std::vector<Direction> directions;
    if (facts.groups.size() <= 2) {
      for (const int32_t group : facts.groups)
        directions.push_back({{group}, {{1, {group}}}, units_[static_cast<size_t>(group)]});
      return directions;
    }
    std::set<int32_t> all;
    size_t together = 0;
    const std::vector<double> full(units_.begin(), units_.end());
    for (const AxisCount& axis : facts.axes) {
      const std::set<int32_t> groups = GroupsOf(axis);
      together += groups.size();
      all.insert(groups.begin(), groups.end());
      directions.push_back({{groups.begin(), groups.end()},
                            {{1, {AxisId(axis)}}},
                            std::llround(CountOf(axis, units_, full))});
    }
    if (directions.size() <= 2 && together == all.size()) return directions;
    LatencyModel::Width elements = facts.elements;
    for (auto& term : elements)
      for (int32_t& axis : term.axes) axis = AxisId(facts.axes[static_cast<size_t>(axis)]);
    return {{facts.groups, elements, 0}};
  }

  /// Kept counts of a direction's groups at each of its points.
  std::vector<std::vector<int64_t>> PointsOf(const Direction& direction, size_t most) const {
    const auto& groups = space_.groups();
    const int64_t step =
        direction.groups.size() == 1 ? groups[static_cast<size_t>(direction.groups[0])].blocks : 1;
    const int64_t full = direction.full > 0 ? direction.full : 64;
    std::vector<std::vector<int64_t>> points;
    for (const int64_t width : WidthGrid(full, step, most)) {
      const double share = static_cast<double>(width) / static_cast<double>(full);
      std::vector<int64_t> kept;
      for (const int32_t index : direction.groups) {
        const Group& group = groups[static_cast<size_t>(index)];
        const double blocks = share * static_cast<double>(group.units / group.blocks);
        kept.push_back(
            std::clamp<int64_t>(std::llround(blocks) * group.blocks, group.least, group.units));
      }
      if (points.empty() || points.back() != kept) points.push_back(std::move(kept));
    }
    return points;
  }

  double WidthAt(const LatencyModel::Width& width, const std::vector<int64_t>& kept) const {
    const std::vector<double> counts(kept.begin(), kept.end());
    return LatencyModel::WidthAt(width, axes_, units_, counts);
  }

  struct Point {
    std::vector<int64_t> kept;
    double ms = 0;
    bool fresh = false;  // not from the cache
  };

  Point Measure(size_t op, const std::vector<int64_t>& kept) {
    const OpCall call = calls_.At(op, kept);
    ++result_.points;
    if (const auto known = cache_.Find(call.key)) return {kept, *known};
    Point point{.kept = kept, .ms = MeasureNow(call), .fresh = true};
    ++result_.measured;
    if (result_.measured % 500 == 0) {
      LogInfo("latency: ", result_.measured, " op shapes measured");
      cache_.Save();
    }
    return point;
  }

  double MeasureNow(const OpCall& call) {
    const double ms = std::max(1e-6, meter_.Milliseconds(call.network, {}, call.fresh));
    cache_.Put(call.key, ms);
    return ms;
  }

  void MeasureAgain(size_t op, Point& point) {
    const OpCall call = calls_.At(op, point.kept);
    ++result_.repeated;
    point.ms = std::min(point.ms, MeasureNow(call));
    cache_.Put(call.key, point.ms);
  }

  /// Stairs make a narrower op slower than a wider one, but not by so much: it was disturbed, and
  /// is measured again. So is the widest, which all others are held against.
  void MeasureDisturbedAgain(size_t op, std::vector<Point>& points) {
    constexpr double kTooSlow = 2.5;
    constexpr int kAgain = 3;
    if (points.back().fresh) MeasureAgain(op, points.back());
    for (auto point = points.rbegin(); point != points.rend(); ++point) {
      if (!point->fresh) continue;
      double wider = point->ms;  // the fastest of those at least as wide everywhere
      for (auto other = points.rbegin(); other != point; ++other)
        if (std::ranges::equal(other->kept, point->kept, std::greater_equal()))
          wider = std::min(wider, other->ms);
      for (int again = 0; again < kAgain && point->ms > kTooSlow * wider; ++again)
        MeasureAgain(op, *point);
    }
  }

  LatencyModel::Op OpTable(size_t op) {
    const OpCalls::Facts& facts = calls_.facts()[op];
    LatencyModel::Op made;
    made.heavy = facts.heavy;
    made.branches = facts.branches;
    const std::vector<Direction> directions = DirectionsOf(facts);
    const size_t most = directions.size() == 2 ? kMostTogether : kMostAlone;
    std::vector<std::vector<std::vector<int64_t>>> points;
    for (const Direction& direction : directions) {
      made.widths.push_back(direction.width);
      points.push_back(PointsOf(direction, most));
      std::vector<double> grid;
      for (const auto& counts : points.back())
        grid.push_back(WidthAt(direction.width, At(units_, direction, counts)));
      made.table.grid.push_back(std::move(grid));
    }
    std::vector<Point> measured;
    const auto each = [&](const std::vector<int64_t>& kept, size_t place, const auto& self) {
      if (place == directions.size()) {
        measured.push_back(Measure(op, kept));
        return;
      }
      for (const auto& counts : points[place])
        self(At(kept, directions[place], counts), place + 1, self);
    };
    each(units_, 0, each);
    MeasureDisturbedAgain(op, measured);
    for (const Point& point : measured) made.table.ms.push_back(point.ms);
    return made;
  }

  static std::vector<int64_t> At(std::vector<int64_t> kept, const Direction& direction,
                                 const std::vector<int64_t>& counts) {
    for (size_t i = 0; i < counts.size(); ++i)
      kept[static_cast<size_t>(direction.groups[i])] = counts[i];
    return kept;
  }

  const Space& space_;
  const OpCalls& calls_;
  Meter& meter_;
  LatencyCache& cache_;
  MeasuredLatency& result_;
  std::vector<int64_t> units_;
  std::vector<AxisCount> axes_;  // those of the groups alone first
};

}  // namespace

LatencyModel MeasureTables(const Space& space, const OpCalls& calls, Meter& meter,
                           LatencyCache& cache, MeasuredLatency& result) {
  return Tables(space, calls, meter, cache, result).Make();
}

}  // namespace espalier

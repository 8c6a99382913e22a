#pragma once

#include <cstdint>
#include <set>
#include <span>
#include <vector>

#include "env/space/space.h"

namespace espalier {

/// Kept coordinates along an axis. units, kept: [groups]; kept may be real-valued.
inline double CountOf(const AxisCount& axis, std::span<const int64_t> units,
                      std::span<const double> kept) {
  auto count = static_cast<double>(axis.constant);
  for (const AxisTerm& term : axis.terms) {
    double part = static_cast<double>(term.times) * kept[static_cast<size_t>(term.group)] /
                  static_cast<double>(term.per);
    if (term.parent >= 0)
      part = part * kept[static_cast<size_t>(term.parent)] /
             static_cast<double>(units[static_cast<size_t>(term.parent)]);
    count += part;
  }
  return count;
}

inline std::vector<double> CountsOf(const std::vector<AxisCount>& axes,
                                    std::span<const int64_t> units, std::span<const double> kept) {
  std::vector<double> counts;
  counts.reserve(axes.size());
  for (const AxisCount& axis : axes) counts.push_back(CountOf(axis, units, kept));
  return counts;
}

/// The groups an axis follows, parents of heads included.
inline std::set<int32_t> GroupsOf(const AxisCount& axis) {
  std::set<int32_t> groups;
  for (const AxisTerm& term : axis.terms) {
    groups.insert(term.group);
    if (term.parent >= 0) groups.insert(term.parent);
  }
  return groups;
}

}  // namespace espalier

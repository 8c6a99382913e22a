#include "env/latency/width_grid.h"

#include <numeric>
#include <set>

#include "env/base/error.h"

namespace espalier {

std::vector<int64_t> WidthGrid(int64_t full, int64_t step, size_t most) {
  ESPALIER_CHECK(full > 0 && step > 0 && step <= full && most >= 2, full, " units in steps of ",
                 step);
  for (int64_t stair = 8;; stair *= 2) {
    std::set<int64_t> widths = {step, full};
    const int64_t apart = std::lcm(stair, step);
    for (int64_t top = apart; top < full; top += apart) {
      widths.insert(top);
      if (top + step < full) widths.insert(top + step);
    }
    if (widths.size() <= most || apart >= full) return {widths.begin(), widths.end()};
  }
}

}  // namespace espalier

#pragma once

#include <cstdint>
#include <vector>

namespace espalier {

/// Widths worth measuring, ascending, from `step` to `full`: both ends, and both sides of each
/// stair (a multiple and what comes next), with stairs of 8 units or, where that makes more than
/// `most` points, of 16, 32, ... All are multiples of `step`, or the full width.
std::vector<int64_t> WidthGrid(int64_t full, int64_t step, size_t most);

}  // namespace espalier

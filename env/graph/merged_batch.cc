#include "env/graph/merged_batch.h"

#include <ATen/ATen.h>

namespace espalier {

Tensor SpreadOverBatch(const Tensor& pattern, at::IntArrayRef sizes) {
  if (pattern.dim() != static_cast<int64_t>(sizes.size())) return pattern;
  std::vector<int64_t> repeats(sizes.size(), 1);
  bool merged = false;
  for (size_t d = 0; d < sizes.size(); ++d) {
    const int64_t own = pattern.sizes()[d];
    if (own <= 1 || own == sizes[d] || sizes[d] % own != 0) continue;
    repeats[d] = sizes[d] / own;
    merged = true;
  }
  return merged ? pattern.repeat(repeats) : pattern;
}

}  // namespace espalier

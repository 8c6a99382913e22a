#pragma once

#include "env/base/tensor.h"

namespace espalier {

/// Spreads a pattern (factors or a mask, of the value's rank, size 1 on axes it does not run along)
/// over a value into one of whose axes the batch was merged in front of the pattern's entries, as
/// reshape makes [B * heads, ..] of [B, heads, ..]: repeats it there. Others come back as they are.
Tensor SpreadOverBatch(const Tensor& pattern, at::IntArrayRef sizes);

}  // namespace espalier

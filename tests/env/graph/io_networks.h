#pragma once

#include "env/graph/network.h"

namespace espalier {

/// conv-bn-relu, a depthwise block, an option-A shortcut (strided slice + zero pad), a cat,
/// flatten and linear, in PyTorch's names; batch-norm statistics are not trivial.
Network SmallConvNet();

/// Two inputs (one of integers), two outputs, a list result (chunk), an in-place op, a lifted
/// constant, a non-persistent buffer, tied weights, dtype and infinite literals, computed sizes.
Network ManyKindsNet();

}  // namespace espalier

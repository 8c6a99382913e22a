#pragma once

#include "env/graph/network.h"

namespace espalier {

/// A float tensor that ops make of nothing but literals (sinusoidal positions written out), the
/// same in every run. Undefined for what follows from an input, a stored tensor or chance.
Tensor ConstantValue(const Network& network, ValueId value);

}  // namespace espalier

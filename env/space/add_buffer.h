#pragma once

#include <string>

#include "env/graph/network.h"

namespace espalier {

/// A new buffer of a network, named `name` or `name_2`, `name_3` ... where that is taken, and the
/// value that reads it.
ValueId AddBuffer(Network& network, const std::string& name, const Tensor& tensor);

}  // namespace espalier

#pragma once

#include <vector>

#include "env/graph/network.h"

namespace espalier {

/// What an op returns, as far as its shape and type go, without computing it: zeros that take no
/// memory. stack: the arguments, replaced by the results. False for operators this does not know
/// (or arguments that do not fit): they have to run; arguments they would write into are then
/// copies.
///
/// Cost     no kernel runs for layers, normalisation, element-wise work and products.
bool ShapeOnly(const Op& op, std::vector<c10::IValue>& stack);

}  // namespace espalier

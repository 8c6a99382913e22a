#pragma once

#include <string>

#include "env/base/tensor.h"
#include "env/graph/network.h"

namespace espalier {

/// Why the weights of a convolution or linear layer cannot be written as one matrix [rows, columns]
/// that multiplies columns of its input; "" when they can.
std::string NotAMatrix(const Network& network, const Op& op);

/// [columns, positions]: what one output position of a conv2d (columns C * kH * kW) or linear layer
/// reads, in the order of its weight seen as [rows, columns].
Tensor InputColumns(const Op& op, const Tensor& weight, const Tensor& input);

}  // namespace espalier

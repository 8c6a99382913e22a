#pragma once

#include "env/graph/network.h"

namespace espalier {

/// Tensors with four axes (images, convolution weights) in channels_last, as they run fastest;
/// others as they are. Tensors that are so already are not copied.
Tensor ChannelsLast(const Tensor& tensor);
void UseChannelsLast(ParameterStore& store);  ///< every stored tensor; ties stay ties

}  // namespace espalier

#pragma once

#include <string>

#include "env/graph/network.h"
#include "env/models/models.h"

namespace espalier {

// The network families behind BuiltinModels(), one file each. Options arrive complete: `classes`,
// `input_size` and `shortcut` are set and valid.

/// He et al. 2016 §4.2: 3 stages of 16, 32, 64 channels; depth = 6 * blocks + 2.
Network CifarResnet(const std::string& name, int64_t blocks, const ModelOptions& options);
Network CifarVgg16(const ModelOptions& options);
Network CifarVgg19(const ModelOptions& options);
Network ImagenetVgg16(const ModelOptions& options);
/// Growth 12, 3 blocks of 12 layers, no bottlenecks, no compression.
Network CifarDensenet40(const ModelOptions& options);
Network CifarGooglenet(const ModelOptions& options);
/// Basic blocks (depths 18, 34) or bottlenecks (50); `blocks` per stage.
Network ImagenetResnet(const std::string& name, const std::vector<int64_t>& blocks, bool bottleneck,
                       const ModelOptions& options);
Network ImagenetMobilenetV2(const ModelOptions& options);

/// Redraws every linear layer as torchvision's VGG and MobileNetV2 do: weights normal with this
/// standard deviation, biases 0. Random: a stream per parameter name.
void InitLinears(Network& network, double std_dev, uint64_t seed);

}  // namespace espalier

#pragma once

#include <string>
#include <vector>

#include "env/graph/torchscript.h"

namespace espalier {

/// Sample inputs of a network file that does not say what its inputs look like.
/// `file`: safetensors, one tensor an input, by the input's name or in order.
/// `shapes`: "1x3x224x224", or several and other types as "1x3x224x224,1x16:int64"; zeros.
/// Errors   kUsage when both are given or a shape is none; kModel and kIo from reading the file.
std::vector<Sample> ReadSamples(const std::string& file, const std::string& shapes);

}  // namespace espalier

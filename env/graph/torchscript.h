#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "env/base/tensor.h"
#include "env/graph/network.h"

namespace espalier {

/// A tensor a network is run on while its file is read; `name` is that of the input, or empty.
struct Sample {
  std::string name;
  Tensor tensor;
};

/// A TorchScript archive (torch.jit.save of a traced or scripted module), as the Network that
/// ReadPt2 gives for the same model: eval mode, parameters by name, calls and loops unrolled. Such
/// files say nothing about their inputs: `samples` are them, by name or in order, with the batch on
/// axis 0; a network that only works at the samples' batch is read with that batch fixed.
/// Archives hold code by nature. LibTorch parses it and our own interpreter follows it; what runs
/// are single tensor operators. Files that would run code on loading (__setstate__, C++ classes)
/// are refused.
/// Errors   kModel naming file, node, module path and source line: control flow or sizes that
/// depend
///          on data, Python functions, buffers that change, training mode; no samples.
/// Cost     one forward at each of two batch sizes.
Network ReadTorchScript(const std::filesystem::path& path, const std::vector<Sample>& samples);
/// By content. Errors: kModel when it is no archive at all, kIo when it is not there.
bool IsTorchScript(const std::filesystem::path& path);

/// Either of the two, by content; a .pt2 needs no samples, but takes some in place of its own.
/// Errors   as the readers; kModel for a checkpoint without a graph.
Network ReadNetwork(const std::filesystem::path& path, const std::vector<Sample>& samples = {});

/// Ends in .pt2, or in .pt, .pts or .ts as TorchScript files do.
bool IsNetworkFile(const std::filesystem::path& path);

}  // namespace espalier

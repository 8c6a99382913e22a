#pragma once

#include <ATen/core/Generator.h>

#include <cstdint>
#include <optional>

#include "env/base/tensor.h"
#include "env/graph/network.h"

namespace espalier {

/// Whether an op draws from the process-wide generator (dropout, randn): such operators take no
/// other.
bool UsesDefaultGenerator(const Graph& graph);

/// Seeds the process-wide generator of a device for its lifetime and puts its state back.
///
/// Threads  what other threads draw meanwhile comes from the same stream.
class GeneratorScope {
 public:
  GeneratorScope(bool on, at::Device device, uint64_t seed);  ///< on = false: does nothing
  /// One stream on the CPU for whatever runs the graph, if it draws at all.
  explicit GeneratorScope(const Graph& graph)
      : GeneratorScope(UsesDefaultGenerator(graph), at::kCPU, 0) {}
  ~GeneratorScope();
  GeneratorScope(const GeneratorScope&) = delete;
  GeneratorScope& operator=(const GeneratorScope&) = delete;

 private:
  std::optional<at::Generator> generator_;
  Tensor saved_;
};

}  // namespace espalier

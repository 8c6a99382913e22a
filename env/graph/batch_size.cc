#include "env/graph/batch_size.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "env/graph/executor.h"

namespace espalier {
namespace {

/// Bytes of the values that are alive together, where they are most. Views count as copies.
double PeakBytes(const Graph& graph, const std::vector<ValueMeta>& meta) {
  constexpr double kOutputCopies = 8;  // metrics in float64: outputs, log-softmax, a temporary
  const auto bytes_of = [&](ValueId value) {
    const ValueMeta& found = meta[static_cast<size_t>(value)];
    double bytes = static_cast<double>(at::elementSize(found.dtype));
    for (const int64_t size : found.sizes) bytes *= static_cast<double>(size);
    return bytes;
  };
  double outputs = 0;
  for (const ValueId output : graph.outputs) outputs += kOutputCopies * bytes_of(output);
  const auto consumers = graph.Consumers();
  std::vector<std::vector<ValueId>> dies(graph.ops.size());
  double alive = 0, peak = 0;
  for (size_t op = 0; op < graph.ops.size(); ++op) {
    for (const ValueId value : graph.ops[op].outputs) {
      const auto& readers = consumers[static_cast<size_t>(value)];
      const auto last =
          readers.empty() ? op
                          : static_cast<size_t>(*std::max_element(readers.begin(), readers.end()));
      alive += bytes_of(value);
      dies[last].push_back(value);
    }
    peak = std::max(peak, alive);
    for (const ValueId value : dies[op]) alive -= bytes_of(value);
  }
  return peak + outputs;
}

}  // namespace

int64_t FittingBatch(const Network& network, int64_t most, int64_t bytes) {
  const auto& inputs = network.graph.inputs;
  if (!inputs.empty() && !inputs.front().dynamic_batch && !inputs.front().sizes.empty())
    return inputs.front().sizes.front();
  constexpr int64_t kSamples = 2;
  const double peak = PeakBytes(network.graph, InferMeta(network, kSamples)) / kSamples;
  if (peak * static_cast<double>(most) <= static_cast<double>(bytes)) return most;
  return std::max<int64_t>(1, static_cast<int64_t>(static_cast<double>(bytes) / peak));
}

}  // namespace espalier

#pragma once

#include <ATen/ATen.h>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "env/graph/executor.h"
#include "env/latency/meter.h"

namespace espalier {

/// Runs what it is given, so that calls which do not fit fail, and says how long that took by a
/// formula: the sum over the ops of milliseconds by the shapes they read and make.
class FakeMeter : public Meter {
 public:
  using Shapes = std::vector<std::vector<int64_t>>;
  using OpTime = std::function<double(const Op&, const Shapes& read, const Shapes& made)>;

  explicit FakeMeter(OpTime time, double factor = 1, double overhead_ms = 0)
      : time_(std::move(time)), factor_(factor), overhead_ms_(overhead_ms) {}

  double Milliseconds(const Network& network, const std::vector<Tensor>& inputs,
                      const std::vector<std::string>& fresh) override {
    ++(inputs.empty() ? calls : networks);
    last_fresh = fresh;
    const at::NoGradGuard no_grad;
    const Graph& graph = network.graph;
    Shapes shapes(graph.values.size());
    std::vector<Tap> taps;
    for (size_t id = 0; id < graph.values.size(); ++id)
      taps.push_back({static_cast<ValueId>(id),
                      [&shapes, id](const Tensor& value) { shapes[id] = value.sizes().vec(); }});
    const Executor executor(graph);
    executor.Run(executor.Bind(network.store), inputs, {.taps = taps});
    double ms = 0;
    for (const Op& op : graph.ops) {
      Shapes read, made;
      for (const Use& use : UsesOf(op)) read.push_back(shapes[static_cast<size_t>(use.value)]);
      for (const ValueId output : op.outputs) made.push_back(shapes[static_cast<size_t>(output)]);
      ms += time_(op, read, made);
    }
    // What a single op takes is known exactly; whole networks take longer, by a rule.
    return inputs.empty() ? ms : factor_ * ms + overhead_ms_;
  }

  int64_t calls = 0, networks = 0;
  std::vector<std::string> last_fresh;

 private:
  OpTime time_;
  double factor_, overhead_ms_;
};

inline double Elements(const std::vector<int64_t>& sizes) {
  double count = 1;
  for (const int64_t size : sizes) count *= static_cast<double>(size);
  return count;
}

/// Every tensor an op touches, by the element; weights of layers in blocks of 16 x 16 channels.
inline double BlockedTime(const Op&, const FakeMeter::Shapes& read, const FakeMeter::Shapes& made) {
  double ms = 1e-3;
  for (const auto& sizes : made) ms += 1e-5 * Elements(sizes);
  for (const auto& sizes : read) {
    if (sizes.size() < 2) continue;
    const auto blocks = [](int64_t width) { return std::ceil(static_cast<double>(width) / 16); };
    ms += sizes.size() == 4 && sizes[2] == sizes[3] && sizes[2] <= 3
              ? 0.05 * blocks(sizes[0]) * blocks(sizes[1])
              : 1e-5 * Elements(sizes);
  }
  return ms;
}

/// Linear in what is touched: a grid of any width gives it exactly, up to products of two widths.
inline double SmoothTime(const Op&, const FakeMeter::Shapes& read, const FakeMeter::Shapes& made) {
  double ms = 1e-3;
  for (const auto& sizes : made) ms += 2e-5 * Elements(sizes);
  for (const auto& sizes : read) ms += 1e-5 * Elements(sizes);
  return ms;
}

}  // namespace espalier

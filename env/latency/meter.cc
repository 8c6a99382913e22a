#include "env/latency/meter.h"

#include <ATen/ATen.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <set>

#include "env/base/error.h"
#include "env/graph/executor.h"

namespace espalier {
namespace {

constexpr int64_t kWarmUps = 3;
constexpr int64_t kMostRuns = 200;
constexpr double kLeastSeconds = 1e-3;  // of timed runs: many of an op that takes microseconds
constexpr double kMostSeconds = 0.5;    // after these, three are enough
constexpr int64_t kRingBytes = 8 << 20;
constexpr int64_t kMostCopies = 32;

void WaitFor(at::Device device) {
  if (!device.is_cpu())
    c10::impl::VirtualGuardImpl(device.type())
        .synchronizeDevice(device.has_index() ? device.index() : 0);
}

/// What an expanded tensor really holds.
Tensor OwnElements(Tensor tensor) {
  for (int64_t axis = 0; axis < tensor.dim(); ++axis)
    if (tensor.stride(axis) == 0 && tensor.size(axis) > 1) tensor = tensor.narrow(axis, 0, 1);
  return tensor;
}

}  // namespace

DeviceMeter::DeviceMeter(int64_t repeats, Clock clock)
    : repeats_(repeats), clock_(std::move(clock)) {
  ESPALIER_CHECK(repeats > 0, repeats, " repeats");
}

double DeviceMeter::Milliseconds(const Network& network, const std::vector<Tensor>& inputs,
                                 const std::vector<std::string>& fresh) {
  const at::NoGradGuard no_grad;
  const std::set<std::string> is_fresh(fresh.begin(), fresh.end());
  at::Device device = at::kCPU;
  int64_t weight_bytes = 0;
  for (const std::string& name : network.store.CanonicalNames()) {
    const Tensor& tensor = network.store.Get(name);
    device = tensor.device();
    if (!is_fresh.contains(name)) weight_bytes += static_cast<int64_t>(tensor.nbytes());
  }
  const Executor executor(network.graph);
  std::vector<Binding> bindings = {executor.Bind(network.store)};
  if (inputs.empty() && weight_bytes > 0) {
    const int64_t copies = std::clamp<int64_t>(kRingBytes / weight_bytes, 1, kMostCopies);
    for (int64_t copy = 0; copy < copies; ++copy) {
      ParameterStore store = network.store;
      for (const std::string& name : store.CanonicalNames())
        if (!is_fresh.contains(name)) store.Set(name, store.Get(name).clone());
      bindings.push_back(executor.Bind(store));
    }
  }
  std::vector<std::pair<Tensor, Tensor>> written;  // (tensor, what it is to hold)
  for (const std::string& name : fresh) {
    const Tensor own = OwnElements(network.store.Get(name));
    written.emplace_back(own, own.clone());
  }

  std::vector<double> seconds;
  double total = 0;
  for (int64_t run = 0; run < kWarmUps + kMostRuns; ++run) {
    for (auto& [tensor, value] : written) tensor.copy_(value);
    WaitFor(device);
    const double start = clock_();
    const std::vector<Tensor> outputs =
        executor.Run(bindings[static_cast<size_t>(run) % bindings.size()], inputs);
    WaitFor(device);
    const double taken = clock_() - start;
    total += taken;
    // Slow ones need no more than one warm-up.
    if (run < kWarmUps && (run == 0 || total < kMostSeconds)) continue;
    seconds.push_back(taken);
    const auto runs = static_cast<int64_t>(seconds.size());
    if (runs >= repeats_ && total >= kLeastSeconds) break;
    if (runs >= 3 && total >= kMostSeconds) break;
  }
  const auto quartile = seconds.begin() + static_cast<int64_t>(seconds.size()) / 4;
  std::nth_element(seconds.begin(), quartile, seconds.end());
  return 1e3 * *quartile;
}

}  // namespace espalier

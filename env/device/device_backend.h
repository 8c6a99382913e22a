#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "env/base/tensor.h"

// What evaluation asks of a device besides running operators on its tensors. All that is written
// for one kind of device only is in backend_cuda.cc.

namespace espalier {

/// Runs `body` with a queue (CUDA: a stream) of its own, after everything the device was given
/// before, and returns when its work is done: what several threads do overlaps. On the CPU it is
/// only called.
void OnOwnQueue(at::Device device, const std::function<void()>& body);

/// A computation of fixed shapes that can be run again at less cost than by calling it.
class Recording {
 public:
  virtual ~Recording() = default;
  /// Runs it on what the tensors it reads hold now.
  virtual void Replay() = 0;
  /// Of the last Replay; the next one overwrites them.
  virtual const std::vector<Tensor>& results() const = 0;
};

/// Records `body`, which reads nothing but tensors that keep their memory and neither waits for the
/// device nor copies to it. CUDA: a graph of kernels, captured after warm-up calls, whose effects
/// stay, and replayed with one launch. Otherwise: every Replay calls it.
///
/// Errors   those of body; kDevice where it cannot be captured.
std::unique_ptr<Recording> Record(at::Device device, std::function<std::vector<Tensor>()> body);

/// Gives memory that is only cached back to the device, after it ran out.
void ReleaseCachedMemory(at::Device device);

}  // namespace espalier

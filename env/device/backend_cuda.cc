#ifdef ESPALIER_HAS_CUDA

#include "env/device/backend_cuda.h"

#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <utility>

#include "env/base/error.h"

namespace espalier {
namespace {

constexpr int kWarmUps = 3;  // libraries choose algorithms and make workspaces in their first calls

class CapturedGraph final : public Recording {
 public:
  CapturedGraph(at::Device device, const std::function<std::vector<Tensor>()>& body) {
    // The default stream cannot be captured.
    const c10::cuda::CUDAStream stream = c10::cuda::getStreamFromPool(false, device.index());
    c10::cuda::getCurrentCUDAStream(device.index()).synchronize();
    const c10::cuda::CUDAStreamGuard guard(stream);
    for (int run = 0; run < kWarmUps; ++run) body();
    stream.synchronize();
    // Other threads may allocate meanwhile.
    graph_.capture_begin({0, 0}, cudaStreamCaptureModeThreadLocal);
    try {
      results_ = body();
    } catch (const std::exception& error) {
      Abandon();
      throw Error(ErrorKind::kDevice,
                  Str("a forward cannot be captured as a CUDA graph: ", error.what()),
                  "set masked = false");
    }
    graph_.capture_end();
  }
  void Replay() override { graph_.replay(); }
  const std::vector<Tensor>& results() const override { return results_; }

 private:
  /// Ends a capture that failed; what that says besides does not matter.
  void Abandon() {
    try {
      graph_.capture_end();
    } catch (const std::exception&) {
    }
  }

  at::cuda::CUDAGraph graph_;
  std::vector<Tensor> results_;  // in the graph's own memory
};

}  // namespace

std::unique_ptr<Recording> RecordOnCuda(at::Device device,
                                        std::function<std::vector<Tensor>()> body) {
  return std::make_unique<CapturedGraph>(device, body);
}

void ReleaseCachedCudaMemory() { c10::cuda::CUDACachingAllocator::emptyCache(); }

}  // namespace espalier

#endif

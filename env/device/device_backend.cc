#include "env/device/device_backend.h"

#include <c10/core/DeviceGuard.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <exception>
#include <utility>

#include "env/device/backend_cuda.h"

namespace espalier {
namespace {

class CalledAgain final : public Recording {
 public:
  explicit CalledAgain(std::function<std::vector<Tensor>()> body) : body_(std::move(body)) {}
  void Replay() override { results_ = body_(); }
  const std::vector<Tensor>& results() const override { return results_; }

 private:
  const std::function<std::vector<Tensor>()> body_;
  std::vector<Tensor> results_;
};

}  // namespace

void OnOwnQueue(at::Device device, const std::function<void()>& body) {
  if (device.is_cpu()) return body();
  const c10::impl::VirtualGuardImpl kind(device.type());
  const at::Device place = device.has_index() ? device : kind.getDevice();
  const c10::DeviceGuard on_device(place);
  kind.getDefaultStream(place).synchronize();  // what was made there is used here
  const c10::Stream own = kind.getStreamFromGlobalPool(place);
  const c10::StreamGuard on_stream(own);
  std::exception_ptr failure;
  try {
    body();
  } catch (...) {
    failure = std::current_exception();
  }
  own.synchronize();  // others may use, or free, what was made here
  if (failure) std::rethrow_exception(failure);
}

std::unique_ptr<Recording> Record(at::Device device, std::function<std::vector<Tensor>()> body) {
#ifdef ESPALIER_HAS_CUDA
  if (device.is_cuda()) return RecordOnCuda(device, std::move(body));
#else
  static_cast<void>(device);
#endif
  return std::make_unique<CalledAgain>(std::move(body));
}

void ReleaseCachedMemory(at::Device device) {
#ifdef ESPALIER_HAS_CUDA
  if (device.is_cuda()) ReleaseCachedCudaMemory();
#else
  static_cast<void>(device);
#endif
}

}  // namespace espalier

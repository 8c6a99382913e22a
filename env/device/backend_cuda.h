#pragma once

#include "env/device/device_backend.h"

namespace espalier {

/// Where LibTorch and the headers of CUDA are there (ESPALIER_HAS_CUDA); as in device_backend.h.
std::unique_ptr<Recording> RecordOnCuda(at::Device device,
                                        std::function<std::vector<Tensor>()> body);
void ReleaseCachedCudaMemory();

}  // namespace espalier

#include "env/graph/memory_format.h"

#include <ATen/ATen.h>

namespace espalier {

Tensor ChannelsLast(const Tensor& tensor) {
  return tensor.dim() == 4 ? tensor.contiguous(at::MemoryFormat::ChannelsLast) : tensor;
}

void UseChannelsLast(ParameterStore& store) {
  for (const std::string& name : store.CanonicalNames()) {
    const Tensor& tensor = store.Get(name);
    if (tensor.dim() == 4) store.Set(name, ChannelsLast(tensor));
  }
}

}  // namespace espalier

#include "env/graph/checked_view.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "env/base/error.h"

namespace espalier {

void CheckInside(at::IntArrayRef sizes, at::IntArrayRef strides, int64_t offset,
                 int64_t available) {
  if (sizes.size() != strides.size())
    throw Error(ErrorKind::kModel,
                Str("it has ", sizes.size(), " sizes and ", strides.size(), " strides"));
  const auto text = [&] {
    return Str("sizes ", sizes, ", strides ", strides, ", offset ", offset);
  };
  int64_t count = 1, last = offset;
  for (size_t axis = 0; axis < sizes.size(); ++axis) {
    if (sizes[axis] < 0 || strides[axis] < 0 || offset < 0)
      throw Error(ErrorKind::kModel, Str(text(), " are negative"));
    int64_t reach = 0;
    if (__builtin_mul_overflow(std::max<int64_t>(sizes[axis] - 1, 0), strides[axis], &reach) ||
        __builtin_add_overflow(last, reach, &last) ||
        __builtin_mul_overflow(count, std::max<int64_t>(sizes[axis], 1), &count))
      throw Error(ErrorKind::kModel, Str(text(), " overflow"));
  }
  const bool empty = std::ranges::any_of(sizes, [](int64_t size) { return size == 0; });
  if (empty ? offset > available : last >= available)
    throw Error(ErrorKind::kModel,
                Str(text(), " reach element ", last, ", its record has ", available));
}

void CheckOwnMemory(const at::Tensor& tensor) {
  const auto available = static_cast<int64_t>(tensor.storage().nbytes() / tensor.element_size());
  CheckInside(tensor.sizes(), tensor.strides(), tensor.storage_offset(), available);
  if (tensor.numel() > available)
    throw Error(ErrorKind::kModel,
                Str("sizes ", tensor.sizes(), " overlap: its record has ", available, " elements"));
}

void CheckBooleans(const at::Tensor& bytes) {
  if (bytes.numel() > 0 && bytes.max().item<uint8_t>() > 1)
    throw Error(ErrorKind::kModel, "its record holds bytes that are no booleans");
}

}  // namespace espalier

#include "env/task/feature.h"

#include <ATen/ATen.h>

#include "env/base/error.h"

namespace espalier {

Tensor Feature::Matching(const Tensor& uncut) const {
  Tensor matching = uncut;
  for (const auto& [axis, coordinates] : kept) {
    if (axis >= uncut.dim() || coordinates.size(0) > uncut.size(axis))
      throw Error(ErrorKind::kModel,
                  Str("a feature of the uncut network is ", uncut.sizes(), "; the cut left ",
                      coordinates.size(0), " coordinates of axis ", axis));
    matching = matching.index_select(axis, coordinates.to(uncut.device()));
  }
  return matching;
}

}  // namespace espalier

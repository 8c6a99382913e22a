#pragma once

#include <nlohmann/json.hpp>
#include <vector>

#include "env/graph/network.h"

namespace espalier::pt2 {

/// A size that depends on the batch: constant + factor * batch.
struct Size {
  int64_t constant = 0;
  int64_t factor = 0;
};

/// What the archive records about one value.
struct SymbolicMeta {
  bool is_int = false;    ///< a computed size: `sizes` holds just its value
  bool computed = false;  ///< false: no op of the graph makes it and it is no input
  std::vector<Size> sizes, strides;
  Size offset;
  at::ScalarType dtype = at::kFloat;
};

/// Runs the network at several batch sizes and reads off which sizes follow the batch, and how.
/// Errors   kModel when a size is no linear function of the batch.
/// Cost     two or three forwards in eval mode at the recorded input shapes.
std::vector<SymbolicMeta> InferSymbolic(const Network& network);

/// {"as_int": 3}, or {"as_expr": {...}} in sympy's form with the hint at batch 2.
nlohmann::ordered_json SizeJson(const Size& size);
inline constexpr const char* kBatchSymbol = "b";

}  // namespace espalier::pt2

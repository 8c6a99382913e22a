#pragma once

#include <nlohmann/json.hpp>
#include <string>
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

/// All numbers of one value at given inputs, flattened: sizes, strides, offset (or the int).
struct ValueRecord {
  bool is_int = false;
  bool computed = false;
  std::vector<int64_t> numbers;
  at::ScalarType dtype = at::kFloat;
};
/// One forward in eval mode at this batch, other open sizes as recorded. [values]
std::vector<ValueRecord> RecordValues(const Network& network, int64_t batch);

/// Runs the network at several batch sizes and reads off which sizes follow the batch, and how.
/// Errors   kModel when a size is no linear function of the batch.
/// Cost     two or three forwards in eval mode at the recorded input shapes.
std::vector<SymbolicMeta> InferSymbolic(const Network& network);

/// {"as_int": 3}, or {"as_expr": {...}} in sympy's form with the hint at this batch.
nlohmann::ordered_json SizeJson(const Size& size, const std::string& symbol, int64_t batch);
inline constexpr const char* kBatchSymbol = "b";  ///< of networks that were not read
inline constexpr int64_t kBatchHint = 2;

}  // namespace espalier::pt2

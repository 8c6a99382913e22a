#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <vector>

#include "env/base/tensor.h"

namespace espalier {

/// Sums of |entry|^p of a tensor by the coordinates of its first two axes. One pass over the tensor
/// gives both, and is made when the first of them is asked for: groups that share a parameter (a
/// layer's rows and its columns, the many readers of a dense block) read it once.
///
/// Shapes   values: [rows], [rows, columns, ...], any float dtype; sums are float64, on the CPU.
/// Threads  Of may be called concurrently. The sums are the same for any number of threads.
class AxisSums {
 public:
  /// blocks: of rows, which have column sums of their own (grouped convolution).
  AxisSums(Tensor values, int64_t blocks);

  int64_t blocks() const { return blocks_; }
  /// axis 0: [rows]; axis 1: [blocks * columns], block by block. p > 0.
  const std::vector<double>& Of(int64_t axis, double p);

 private:
  const Tensor values_;
  const int64_t blocks_;
  std::mutex mutex_;
  std::map<double, std::vector<double>[2]> sums_;  // p -> by axis
};

}  // namespace espalier

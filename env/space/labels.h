#pragma once

#include <functional>
#include <vector>

#include "env/graph/executor.h"
#include "env/graph/network.h"

namespace espalier {

/// Labels of one value: an int64 tensor of the value's rank, with size 1 on axes along which the
/// labels do not change. Entries: > 0 coordinate id, 0 filler (spatial zero padding), -1 data that
/// cannot be cut. Undefined: all -1. Labels may run along several axes (heads and their dims).
struct Labels {
  Tensor ids;
  bool defined() const { return ids.defined(); }
};

/// Numbers that are computed with, so that a tensor of them can be cut; not indices or masks.
inline bool HoldsNumbers(at::ScalarType dtype) {
  return at::isFloatingType(dtype) || at::isComplexType(dtype);
}

/// Runs a data movement (reshape, permute, slice ...) on a tensor of the shape of its first
/// argument, on numbers instead of data; reshapes go to the recorded sizes of the outputs. Empty
/// when an argument is not known.
std::vector<Tensor> RunMovement(const Op& op, const Tensor& x, const std::vector<ValueMeta>& meta);

/// Axes along which compressed labels run.
std::vector<int64_t> VaryingAxes(const Tensor& ids);

/// The axis along which the numbers of neighbouring labels differ least where they differ, and so
/// follow each other; the other varying axes are blocks. Parts may share labels (queries and keys,
/// rotary pairs of all heads). -1: labels differ nowhere but from data that cannot be cut.
/// `number`: a label's, ids and classes alike.
int64_t InnerAxis(const Tensor& ids, const std::function<int64_t(int64_t)>& number);

/// Shrinks every axis along which the labels do not change to size 1. Filler (0) counts as equal to
/// anything, so that spatial padding does not make a channel label run over space.
Tensor Compress(Tensor ids);

}  // namespace espalier

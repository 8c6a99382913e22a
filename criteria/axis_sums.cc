#include "criteria/axis_sums.h"

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>

#include "criteria/sum_contiguous.h"
#include "env/base/error.h"

namespace espalier {
namespace {

struct Shape {
  int64_t rows, columns, inner, blocks;
};

/// Adds a row's entries to its columns' sums; returns their own sum.
template <typename T, typename Function>
double AddRow(const T* row, const Shape& shape, double* columns, Function function) {
  double sum = 0;
  if (shape.inner > 1) {
    for (int64_t c = 0; c < shape.columns; ++c) {
      const double entry = SumContiguous(row + c * shape.inner, shape.inner, function);
      columns[c] += entry;
      sum += entry;
    }
    return sum;
  }
  double lanes[kSumLanes] = {};
  int64_t c = 0;
  for (; c + kSumLanes <= shape.columns; c += kSumLanes)
    for (int64_t lane = 0; lane < kSumLanes; ++lane) {
      const double entry = function(static_cast<double>(row[c + lane]));
      columns[c + lane] += entry;
      lanes[lane] += entry;
    }
  for (; c < shape.columns; ++c) {
    const double entry = function(static_cast<double>(row[c]));
    columns[c] += entry;
    sum += entry;
  }
  for (const double lane : lanes) sum += lane;
  return sum;
}

template <typename T, typename Function>
void SumBoth(const T* values, const Shape& shape, std::vector<double> (&sums)[2],
             Function function) {
  constexpr int64_t kGrain = 1 << 15;  // entries a task should have
  const int64_t width = shape.columns * shape.inner;
  const auto wide = static_cast<size_t>(shape.blocks * shape.columns);
  sums[0].assign(static_cast<size_t>(shape.rows), 0);
  // The number of parts follows from the shape alone: the order of additions does not change with
  // the number of threads.
  const int64_t parts = std::clamp<int64_t>(shape.rows * width / kGrain, 1, 16);
  std::vector<std::vector<double>> partial(static_cast<size_t>(parts));
  at::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      std::vector<double>& own = partial[static_cast<size_t>(part)];
      own.assign(wide, 0);
      for (int64_t row = shape.rows * part / parts; row < shape.rows * (part + 1) / parts; ++row)
        sums[0][static_cast<size_t>(row)] =
            AddRow(values + row * width, shape,
                   own.data() + row * shape.blocks / shape.rows * shape.columns, function);
    }
  });
  sums[1] = std::move(partial.front());
  for (size_t part = 1; part < partial.size(); ++part)
    for (size_t i = 0; i < wide; ++i) sums[1][i] += partial[part][i];
}

}  // namespace

AxisSums::AxisSums(Tensor values, int64_t blocks) : values_(std::move(values)), blocks_(blocks) {
  ESPALIER_CHECK(values_.dim() > 0 && blocks_ > 0 && values_.size(0) % blocks_ == 0,
                 values_.sizes(), " in ", blocks_, " blocks of rows");
}

const std::vector<double>& AxisSums::Of(int64_t axis, double p) {
  const std::lock_guard lock(mutex_);
  auto& sums = sums_[p];
  if (!sums[0].empty() || values_.size(0) == 0) return sums[axis];
  const Tensor values = values_.to(at::kCPU).contiguous();
  const int64_t columns = values.dim() > 1 ? values.size(1) : 1;
  const Shape shape{values.size(0), columns,
                    columns == 0 ? 0 : values.numel() / values.size(0) / columns, blocks_};
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, values.scalar_type(), "axis_sums", [&] {
    const auto* data = values.const_data_ptr<scalar_t>();
    if (p == 1)
      SumBoth(data, shape, sums, [](double value) { return std::abs(value); });
    else if (p == 2)
      SumBoth(data, shape, sums, [](double value) { return value * value; });
    else
      SumBoth(data, shape, sums, [p](double value) { return std::pow(std::abs(value), p); });
  });
  return sums[axis];
}

}  // namespace espalier

#include "criteria/unit_layout.h"

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "criteria/sum_contiguous.h"
#include "env/base/error.h"

namespace espalier {
namespace {

/// Coordinates that follow each other, in the tensor and among the member's indices.
struct Run {
  int64_t block = 0;  // axis-0 block; -1 = all
  int64_t coordinate = 0;
  int64_t position = 0;  // in the member's indices
  int64_t count = 0;
};

std::vector<Run> FindRuns(const std::vector<int64_t>& indices, int64_t size, bool blocked) {
  std::vector<Run> runs;
  for (int64_t i = 0; i < static_cast<int64_t>(indices.size()); ++i) {
    const int64_t index = indices[static_cast<size_t>(i)];
    const int64_t block = blocked ? index / size : -1;
    const int64_t coordinate = blocked ? index % size : index;
    if (!runs.empty() && runs.back().block == block &&
        runs.back().coordinate + runs.back().count == coordinate) {
      ++runs.back().count;
    } else {
      runs.push_back({block, coordinate, i, 1});
    }
  }
  return runs;
}

/// Adds rows [first, last) of values [outer, size, inner] to one sum per coordinate of the runs.
template <typename T, typename Function>
void AddRows(const T* values, const int64_t (&shape)[3], int64_t first, int64_t last,
             const std::vector<Run>& runs, int64_t rows_per_block, double* sums,
             Function function) {
  const auto [outer, size, inner] = shape;
  for (int64_t row = first; row < last; ++row) {
    const T* row_values = values + row * size * inner;
    for (const Run& run : runs) {
      if (run.block >= 0 && run.block != row / rows_per_block) continue;
      const T* from = row_values + run.coordinate * inner;
      double* to = sums + run.position;
      if (inner == 1) {
        for (int64_t i = 0; i < run.count; ++i) to[i] += function(static_cast<double>(from[i]));
      } else {
        for (int64_t i = 0; i < run.count; ++i)
          to[i] += SumContiguous(from + i * inner, inner, function);
      }
    }
  }
}

template <typename T, typename Function>
std::vector<double> SumByCoordinate(const T* values, const int64_t (&shape)[3],
                                    const std::vector<Run>& runs, int64_t count, int64_t blocks,
                                    Function function) {
  const auto [outer, size, inner] = shape;
  constexpr int64_t kGrain = 1 << 15;  // entries a task should have
  std::vector<double> sums(static_cast<size_t>(count));
  if (outer == 1) {  // axis 0: every coordinate is one contiguous piece
    for (const Run& run : runs) {
      const T* from = values + run.coordinate * inner;
      double* to = sums.data() + run.position;
      at::parallel_for(0, run.count, std::max<int64_t>(1, kGrain / inner),
                       [&](int64_t first, int64_t last) {
                         for (int64_t i = first; i < last; ++i)
                           to[i] = SumContiguous(from + i * inner, inner, function);
                       });
    }
    return sums;
  }
  // The number of parts follows from the shape alone: the order of additions does not change with
  // the number of threads.
  const int64_t parts = std::clamp<int64_t>(outer * size * inner / kGrain, 1, 16);
  std::vector<std::vector<double>> partial(static_cast<size_t>(parts));
  at::parallel_for(0, parts, 1, [&](int64_t first, int64_t last) {
    for (int64_t part = first; part < last; ++part) {
      std::vector<double>& own = partial[static_cast<size_t>(part)];
      own.assign(static_cast<size_t>(count), 0);
      AddRows(values, shape, outer * part / parts, outer * (part + 1) / parts, runs, outer / blocks,
              own.data(), function);
    }
  });
  for (const std::vector<double>& own : partial)
    for (size_t i = 0; i < sums.size(); ++i) sums[i] += own[i];
  return sums;
}

/// at::zeros, several times as fast: a dense network has thousands of members.
Tensor ZeroSums(int64_t units) {
  Tensor sums = at::detail::empty_cpu({units}, at::kDouble);
  std::fill_n(sums.mutable_data_ptr<double>(), units, 0.0);
  return sums;
}

}  // namespace

UnitLayout UnitLayout::Rows(const std::string& parameter, MemberRole role, int64_t units) {
  Member member{.parameter = parameter, .role = role, .indices = {}};
  member.indices.resize(static_cast<size_t>(units));
  std::iota(member.indices.begin(), member.indices.end(), 0);
  return UnitLayout("", units, std::move(member));
}

void UnitLayout::Check(const Tensor& values) const {
  const auto wanted = static_cast<int64_t>(member().indices.size());
  const int64_t first = member().first_unit, count = member().units();
  ESPALIER_CHECK(wanted == count * member().per_unit && first >= 0 && first + count <= units_,
                 "group '", group_, "', member '", member().parameter, "': ", wanted,
                 " indices of ", member().per_unit, " a unit from unit ", first, " of ", units_);
  const char* hint = "weights of another network?";
  if (member().axis >= values.dim())
    throw Error(ErrorKind::kModel,
                Str("group '", group_, "': '", member().parameter, "' has ", values.dim(),
                    " axes, the space names axis ", member().axis),
                hint);
  const int64_t size = values.size(member().axis) * (blocked() ? member().blocks : 1);
  for (const int64_t index : member().indices)
    if (index >= size)
      throw Error(ErrorKind::kModel,
                  Str("group '", group_, "': axis ", member().axis, " of '", member().parameter,
                      "' has ", size, " coordinates, the space names coordinate ", index),
                  hint);
}

Tensor UnitLayout::Gather(const Tensor& given) const {
  Check(given);
  const Tensor values = given.detach().to(at::kCPU);
  const Tensor index = at::tensor(member().indices, at::kLong);
  const int64_t first = member().first_unit, count = member().units();
  Tensor picked;  // before it is widened: a consumer of many groups gives each of them little
  if (blocked()) {
    const int64_t size = values.size(member().axis);
    picked = values.movedim(member().axis, 1)
                 .reshape({member().blocks, values.size(0) / member().blocks, size, -1})
                 .transpose(1, 2)  // [blocks, size, rows, rest]
                 .reshape({member().blocks * size, -1})
                 .index_select(0, index);
  } else {
    picked = values.index_select(member().axis, index).movedim(member().axis, 0);
  }
  const Tensor rows = picked.to(at::kDouble).reshape({count, -1});
  if (count == units_) return rows.contiguous();
  // Units this tensor does not touch (the queries' dims of a value projection).
  return at::constant_pad_nd(rows, {0, 0, first, units_ - first - count}).contiguous();
}

Tensor UnitLayout::ToUnits(std::vector<double> by_coordinate) const {
  Tensor sums = ZeroSums(units_);
  double* unit = sums.mutable_data_ptr<double>() + member().first_unit;
  for (size_t i = 0; i < by_coordinate.size(); ++i)
    unit[i / static_cast<size_t>(member().per_unit)] += by_coordinate[i];
  return sums;
}

template <typename Function>
Tensor UnitLayout::SumOf(const Tensor& given, Function function) const {
  Check(given);
  Tensor values = given.detach().to(at::kCPU).contiguous();
  if (values.scalar_type() != at::kFloat) values = values.to(at::kDouble);
  const auto sizes = values.sizes();
  const auto product = [](at::IntArrayRef some) {
    return std::accumulate(some.begin(), some.end(), int64_t{1}, std::multiplies<>());
  };
  const auto axis = static_cast<size_t>(member().axis);
  const int64_t shape[3] = {product(sizes.slice(0, axis)), sizes[axis],
                            product(sizes.slice(axis + 1))};
  const std::vector<Run> runs = FindRuns(member().indices, shape[1], blocked());
  const auto count = static_cast<int64_t>(member().indices.size());
  const int64_t blocks = blocked() ? member().blocks : 1;
  if (values.scalar_type() == at::kFloat)
    return ToUnits(
        SumByCoordinate(values.const_data_ptr<float>(), shape, runs, count, blocks, function));
  return ToUnits(
      SumByCoordinate(values.const_data_ptr<double>(), shape, runs, count, blocks, function));
}

Tensor UnitLayout::Sum(const Tensor& values) const {
  return SumOf(values, [](double value) { return value; });
}

Tensor UnitLayout::SumPowers(AxisSums& sums, const Tensor& values, double p) const {
  // One pass over the first two axes serves all groups; others are summed for this member alone.
  if (member().axis > 1 || member().blocks != (member().axis == 0 ? 1 : sums.blocks()))
    return SumPowers(values, p);
  Check(values);
  const std::vector<double>& by_coordinate = sums.Of(member().axis, p);
  Tensor units = ZeroSums(units_);
  double* unit = units.mutable_data_ptr<double>() + member().first_unit;
  const int64_t* index = member().indices.data();
  for (int64_t u = 0; u < member().units(); ++u)
    for (int64_t i = 0; i < member().per_unit; ++i)
      unit[u] += by_coordinate[static_cast<size_t>(*index++)];
  return units;
}

Tensor UnitLayout::SumPowers(const Tensor& values, double p) const {
  if (p == 1) return SumOf(values, [](double value) { return std::abs(value); });
  if (p == 2) return SumOf(values, [](double value) { return value * value; });
  return SumOf(values, [p](double value) { return std::pow(std::abs(value), p); });
}

}  // namespace espalier

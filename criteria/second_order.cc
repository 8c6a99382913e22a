#include "criteria/second_order.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "env/base/error.h"

namespace espalier {
namespace {

Tensor Cholesky(const Tensor& matrix) {
  const auto [factor, info] = at::linalg_cholesky_ex(matrix.to(at::kDouble));
  if (info.ne(0).any().item<bool>())
    throw Error(ErrorKind::kModel,
                Str("a matrix of second moments ", matrix.sizes(), " is not positive definite"),
                "raise the damping, or calibrate with more batches");
  return factor;
}

Tensor Index(const std::vector<int64_t>& removed) { return at::tensor(removed, at::kLong); }

}  // namespace

Tensor Damp(const Tensor& hessian, double damping) {
  Tensor damped = hessian.to(at::kDouble).clone();
  Tensor diagonal = damped.diagonal();
  diagonal.masked_fill_(diagonal.eq(0), 1);
  diagonal.add_(damping * diagonal.mean().item<double>());
  return damped;
}

Tensor WithoutDeadColumns(const Tensor& w, const Tensor& hessian) {
  return w.masked_fill(hessian.diagonal().eq(0), 0);
}

Tensor InverseOf(const Tensor& hessian) { return at::cholesky_inverse(Cholesky(hessian)); }

Tensor UpperFactor(const Tensor& hessian) { return Cholesky(InverseOf(hessian)).t().contiguous(); }

double RemovalCost(const Tensor& w, const Tensor& inverse, const std::vector<int64_t>& removed) {
  if (removed.empty()) return 0;
  const Tensor q = Index(removed);
  const Tensor rows = w.to(at::kDouble).reshape({-1, w.size(-1)}).index_select(1, q);  // [O, Q]
  const Tensor block = inverse.index_select(0, q).index_select(1, q);
  const Tensor solved = at::cholesky_solve(rows.t(), Cholesky(block));  // (P_QQ)^-1 w_Q^T
  return 0.5 * (rows.t() * solved).sum().item<double>();
}

Tensor RemovalCosts(const Tensor& w, const Tensor& inverse) {
  return w.to(at::kDouble).square() / (2 * inverse.diagonal(0, -2, -1));
}

Tensor RemoveWeights(const Tensor& w, const Tensor& inverse, const std::vector<int64_t>& removed,
                     bool joint) {
  if (removed.empty()) return w;
  const Tensor q = Index(removed);
  const Tensor rows = w.to(at::kDouble).reshape({-1, w.size(-1)});
  const Tensor picked = rows.index_select(1, q);     // w_Q, [O, Q]
  const Tensor across = inverse.index_select(0, q);  // P_Q:, [Q, K]
  const Tensor block = across.index_select(1, q);    // P_QQ
  const Tensor factors = joint ? at::cholesky_solve(picked.t(), Cholesky(block)).t()
                               : picked / block.diagonal();  // w_Q (P_QQ)^-1, or w_q / P_qq
  const Tensor after = rows - at::matmul(factors, across);
  return after.index_fill(1, q, 0).reshape(w.sizes());
}

Tensor BlockFisherInverse(const Tensor& gradients, double damping) {
  const Tensor rows = gradients.to(at::kDouble);
  const auto m = static_cast<double>(rows.size(0));
  Tensor p = at::eye(rows.size(1), rows.options()) / damping;  // P_0
  for (int64_t s = 0; s < rows.size(0); ++s) {
    const Tensor pg = at::mv(p, rows[s]);
    p = p - at::outer(pg, pg) / (m + at::dot(rows[s], pg));
  }
  return p;
}

Tensor InBlocks(const Tensor& rows, int64_t block) {
  ESPALIER_CHECK(rows.dim() == 2 && block > 0, rows.sizes(), " in blocks of ", block);
  const int64_t columns = rows.size(1), size = std::max<int64_t>(1, std::min(block, columns));
  const int64_t missing = (size - columns % size) % size;
  return (missing == 0 ? rows : at::constant_pad_nd(rows, {0, missing}))
      .reshape({rows.size(0), -1, size});
}

SparseGptResult SparseGpt(const Tensor& w, const Tensor& upper, const Tensor& mask,
                          double removed_share, int64_t block) {
  ESPALIER_CHECK(w.dim() == 2 && upper.size(0) == w.size(1) && block > 0, w.sizes());
  const int64_t columns = w.size(1);
  SparseGptResult result{.weight = w.to(at::kDouble).clone(),
                         .mask = mask.defined() ? mask : at::zeros(w.sizes(), at::kBool)};
  const Tensor u = upper.to(at::kDouble);
  const Tensor diagonal = u.diagonal();
  for (int64_t start = 0; start < columns; start += block) {
    const int64_t count = std::min(block, columns - start);
    Tensor weight = result.weight.narrow(1, start, count);  // views: written in place
    const Tensor own = u.narrow(0, start, count).narrow(1, start, count);
    if (!mask.defined()) {
      const Tensor scores = weight.square() / diagonal.narrow(0, start, count).square();
      const auto removed =
          static_cast<int64_t>(std::floor(removed_share * static_cast<double>(scores.numel())));
      const Tensor lowest =
          scores.flatten().argsort(/*stable=*/true, 0, false).narrow(0, 0, removed);
      const Tensor chosen = at::zeros({scores.numel()}, at::kBool).index_fill(0, lowest, true);
      result.mask.narrow(1, start, count).copy_(chosen.view(scores.sizes()));
    }
    Tensor errors = at::zeros_like(weight);
    for (int64_t i = 0; i < count; ++i) {
      const Tensor column = weight.select(1, i).clone();
      const Tensor kept =
          column.masked_fill(result.mask.select(1, start + i), 0);  // q, with 0 where removed
      const auto d = own[i][i].item<double>();
      result.loss += ((column - kept) / d).square().sum().item<double>() / 2;
      const Tensor error = (column - kept) / d;
      weight.narrow(1, i, count - i).sub_(at::outer(error, own[i].narrow(0, i, count - i)));
      weight.select(1, i).copy_(kept);
      errors.select(1, i).copy_(error);
    }
    const int64_t rest = columns - start - count;
    if (rest == 0) continue;
    result.weight.narrow(1, start + count, rest)
        .sub_(at::matmul(errors, u.narrow(0, start, count).narrow(1, start + count, rest)));
  }
  return result;
}

}  // namespace espalier

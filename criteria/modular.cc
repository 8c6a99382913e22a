#include "criteria/modular.h"

#include <ATen/ATen.h>

#include "env/base/error.h"

namespace espalier {
namespace {

/// C^power of a positive semi-definite C; directions without energy are left out.
Tensor Power(const Tensor& gram, double power) {
  const auto [values, vectors] = at::linalg_eigh(gram.to(at::kDouble));
  const double least = 1e-14 * values.max().item<double>();  // rounding of a double's eigenvalues
  const Tensor powers = at::where(
      values > least, values.clamp_min(least > 0 ? least : 1).pow(power), at::zeros_like(values));
  return at::matmul(vectors * powers, vectors.t());
}

Tensor PseudoInverse(const Tensor& gram) { return Power(gram, -1); }

}  // namespace

Tensor LeverageMatrix(const Tensor& given, double ridge) {
  const Tensor gram = given.to(at::kDouble);
  const double lambda = ridge * gram.diagonal().mean().item<double>();
  if (!(lambda > 0)) return at::zeros_like(gram);  // nothing ever runs through it
  Tensor damped = gram.clone();
  damped.diagonal().add_(lambda);
  // C (C + lambda I)^-1 = I - lambda (C + lambda I)^-1
  const Tensor inverse = at::cholesky_inverse(at::linalg_cholesky(damped));
  return at::eye(gram.size(0), gram.options()) - lambda * inverse;
}

Tensor RidgeLeverage(const Tensor& gram, double ridge) {
  return LeverageMatrix(gram, ridge).diagonal().clone();
}

Tensor NystromColumns(const Tensor& w, const Tensor& given, const std::vector<int64_t>& kept) {
  if (static_cast<int64_t>(kept.size()) == w.size(1)) return w;
  const Tensor gram = given.to(at::kDouble);
  const Tensor s = at::tensor(kept, at::kLong);
  const Tensor across = gram.index_select(1, s);  // C_:S
  const Tensor inverse = PseudoInverse(across.index_select(0, s));
  return at::matmul(w.to(at::kDouble), at::matmul(across, inverse));
}

double NystromResidual(const Tensor& given_w, const Tensor& given,
                       const std::vector<int64_t>& kept) {
  const Tensor w = given_w.to(at::kDouble), gram = given.to(at::kDouble);
  const Tensor s = at::tensor(kept, at::kLong);
  const Tensor across = gram.index_select(1, s);
  const Tensor explained =
      at::matmul(at::matmul(across, PseudoInverse(across.index_select(0, s))), across.t());
  return (at::matmul(w, gram - explained) * w).sum().item<double>();
}

Tensor CrScores(const Tensor& query_energy, const Tensor& key_energy) {
  return (query_energy.to(at::kDouble) * key_energy.to(at::kDouble)).sqrt();
}

std::pair<Tensor, Tensor> SvdFactors(const Tensor& gram, const Tensor& a, const Tensor& b,
                                     int64_t rank) {
  ESPALIER_CHECK(rank > 0 && rank <= a.size(1), "rank ", rank, " of ", a.sizes());
  // U S V^T = svd(C^1/2 A); U' S' V'^T = svd(S V^T B)
  const auto [u, s, vt] = at::linalg_svd(at::matmul(Power(gram, 0.5), a.to(at::kDouble)), false);
  const auto [u2, s2, vt2] =
      at::linalg_svd(at::matmul(s.unsqueeze(1) * vt, b.to(at::kDouble)), false);
  const int64_t k = std::min(rank, s2.size(0));
  const Tensor first = at::matmul(Power(gram, -0.5), at::matmul(u, u2.narrow(1, 0, k)));
  return {first, s2.narrow(0, 0, k).unsqueeze(1) * vt2.narrow(0, 0, k)};
}

BasisChange SingularBasis(const Tensor& root, const Tensor& given_a, const Tensor& given_b) {
  const Tensor a = given_a.to(at::kDouble), b = given_b.to(at::kDouble);
  const int64_t dims = a.size(1);
  const auto [u, s, vt] = at::linalg_svd(at::matmul(root.to(at::kDouble), a), false);
  const auto [u2, s2, vt2] = at::linalg_svd(at::matmul(s.unsqueeze(1) * vt, b), false);
  constexpr double kNone = 1e-12;  // of the largest: A has no such direction
  const Tensor inverse =
      at::where(s > kNone * s.max(), s.clamp_min(1e-300).reciprocal(), at::zeros_like(s));
  Tensor to = at::matmul(vt.t() * inverse, u2);           // V S^-1 U'
  Tensor back = at::matmul(u2.t(), s.unsqueeze(1) * vt);  // U'^T S V^T
  const Tensor left = at::matmul(a, to).norm(2, 0), right = at::matmul(back, b).norm(2, 1);
  const Tensor both = left.gt(0).logical_and(right.gt(0));
  const Tensor scale = at::where(both, (right / left).sqrt(), at::ones_like(left));
  to = to * scale;
  back = back / scale.unsqueeze(1);
  const int64_t missing = dims - to.size(1);  // fewer inputs or outputs than dims
  if (missing > 0) {
    to = at::cat({to, at::zeros({dims, missing}, to.options())}, 1);
    back = at::cat({back, at::zeros({missing, dims}, back.options())});
  }
  return {to, back, s2};
}

Tensor SvdTail(const Tensor& gram, const Tensor& a, const Tensor& b) {
  const Tensor product = at::matmul(a.to(at::kDouble), b.to(at::kDouble));
  return at::linalg_svdvals(at::matmul(Power(gram, 0.5), product)).square();
}

}  // namespace espalier

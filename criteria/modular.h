#pragma once

#include <utility>
#include <vector>

#include "env/base/tensor.h"

namespace espalier {

// Closed forms that shrink a pair of matrices from second moments of what runs through them.
//
// Source   Lin et al., "MoDeGPT: Modular Decomposition for Large Language Model Compression",
//          arXiv:2408.09632 (types I, II and III).
// All in float64; C is a mean or sum of x x^T.

/// Type I: s_i = [C (C + lambda I)^-1]_ii with lambda = ridge * mean(diag C). [K]; in [0, 1).
Tensor RidgeLeverage(const Tensor& gram, double ridge);
/// C (C + lambda I)^-1 itself: the trace of a unit's block is the unit's leverage.
Tensor LeverageMatrix(const Tensor& gram, double ridge);

/// Type I: the weights that read `kept` columns so that their output is nearest to that of all
/// columns, W_S = W C_:S (C_SS)^+. w: [O, K] -> [O, kept]. All columns kept: w itself, bit for bit.
Tensor NystromColumns(const Tensor& w, const Tensor& gram, const std::vector<int64_t>& kept);
/// The squared error that this leaves, sum over rows, in units of C:
/// tr(W (C - C_:S (C_SS)^+ C_S:) W^T).
double NystromResidual(const Tensor& w, const Tensor& gram, const std::vector<int64_t>& kept);

/// Type II: s_i = |C_q^1/2 e_i| |C_k^1/2 e_i| = sqrt(C_q,ii C_k,ii). [K] each -> [K].
Tensor CrScores(const Tensor& query_energy, const Tensor& key_energy);

/// Type III: the best rank-k factors for inputs with moments C: (first [D, k], second [k, O]) with
/// |C^1/2 (A B - first second)|_F minimal. a: [D, H]; b: [H, O].
std::pair<Tensor, Tensor> SvdFactors(const Tensor& gram, const Tensor& a, const Tensor& b,
                                     int64_t rank);
/// The same for all ranks at once, as a change of basis of what runs between A and B: A to[:, :k]
/// and back[:k, :] B are factors of rank k. root: [D, D] with root^T root = C, of full rank. Each
/// column of A to has the norm of its row of back B, which are in the order of `singular`.
struct BasisChange {
  Tensor to, back;  ///< [H, H]; A to back B = A B
  Tensor singular;  ///< of root A B, descending; [min(H, O)]
};
BasisChange SingularBasis(const Tensor& root, const Tensor& a, const Tensor& b);
/// Squared singular values of C^1/2 A B, descending: those after the k-th are the error.
Tensor SvdTail(const Tensor& gram, const Tensor& a, const Tensor& b);

}  // namespace espalier

#pragma once

#include <vector>

#include "env/base/tensor.h"

namespace espalier {

// The surgeon's algebra: closed forms on a Hessian H of a quadratic loss, all in float64.
// w: [K] or [O, K] (rows are independent problems that share H); P = H^-1: [K, K].

/// H + damping * mean(diag H) * I; columns that nothing reaches (H_jj = 0) get H_jj = 1 first.
/// Source: Frantar, Alistarh, "SparseGPT", arXiv:2301.00774, and its released code.
Tensor Damp(const Tensor& hessian, double damping);
/// w with 0 in the columns that nothing reaches (H_jj = 0): they are free to remove.
/// Source: as Damp.
Tensor WithoutDeadColumns(const Tensor& w, const Tensor& hessian);
/// P of a positive definite H, or of each of a batch [..., K, K]. Errors: kModel when it is not.
Tensor InverseOf(const Tensor& hessian);
/// Upper triangular U with H^-1 = U^T U.
Tensor UpperFactor(const Tensor& hessian);

/// Change of the loss w^T H w / 2 summed over rows when the weights at `removed` go and the others
/// move to make up for it: w_Q (P_QQ)^-1 w_Q^T / 2.
/// Source: Kurtic et al., arXiv:2203.07259; Hassibi, Stork, "Optimal Brain Surgeon", NIPS
/// 1992.
double RemovalCost(const Tensor& w, const Tensor& inverse, const std::vector<int64_t>& removed);
/// Each weight alone: w_q^2 / (2 P_qq). Shape of w; also for a batch, w: [..., K], P: [..., K, K].
Tensor RemovalCosts(const Tensor& w, const Tensor& inverse);
/// The weights afterwards: w - w_Q (P_QQ)^-1 P_Q:, exact zeros at `removed`; unchanged, bit for
/// bit, when nothing is removed. joint = false adds up the updates of single weights instead, as
/// the released oBERT code does: never better than joint.
Tensor RemoveWeights(const Tensor& w, const Tensor& inverse, const std::vector<int64_t>& removed,
                     bool joint = true);

/// Inverse of damping * I + (1/m) G^T G by m rank-1 updates. gradients G: [m, B] -> [B, B].
/// Source: arXiv:2004.14340: P <- P - (P g)(P g)^T / (m + g^T P g), P_0 = I / damping. The plain
/// reference of what wood_fisher gets from the mean of g g^T and InverseOf.
Tensor BlockFisherInverse(const Tensor& gradients, double damping);
/// Rows cut into blocks of `block`, or of all columns when these are fewer, zeros behind the last:
/// rows [units, K] -> [units, blocks, block].
Tensor InBlocks(const Tensor& rows, int64_t block);

/// One layer pruned column by column, the error of each column moved to those right of it.
///
/// Source   Frantar, Alistarh, "SparseGPT", arXiv:2301.00774.
/// Symbols  U -> upper; B = B_s -> block.
/// Deviates None; `mask` may be given instead of being chosen block by block.
struct SparseGptResult {
  Tensor weight{};  ///< [O, K]
  Tensor mask{};    ///< [O, K] bool, true = removed
  double loss = 0;  ///< sum of (w - q)^2 / (2 U_ii^2)
};
/// w: [O, K]. mask undefined: in each block the `removed_share` of all entries with the lowest
/// w^2 / U_jj^2 goes.
SparseGptResult SparseGpt(const Tensor& w, const Tensor& upper, const Tensor& mask,
                          double removed_share, int64_t block = 128);

}  // namespace espalier

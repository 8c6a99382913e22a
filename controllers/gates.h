#pragma once

#include "env/base/rng.h"
#include "env/base/tensor.h"

namespace espalier {

/// Differentiable gates: logits in, multipliers in [0, 1] out. All are element-wise, of any shape
/// and float dtype, on any device, and draw nothing unless a stream is passed.

/// The logit whose sigmoid is `open`: -ln(1 / open - 1). Errors: internal unless 0 < open < 1.
double LogitOf(double open);

/// `hard` in the forward pass, the gradient of `soft` in the backward pass.
/// The value is exactly `hard`: soft - soft cancels before it is added.
Tensor StraightThrough(const Tensor& hard, const Tensor& soft);

/// round(x) with gradient 1 (halves go to the even neighbour).
Tensor StraightThroughRound(const Tensor& x);

/// 1 where soft >= threshold, else 0, with gradient 1.
Tensor StraightThroughThreshold(const Tensor& soft, double threshold);

/// G = -ln(-ln U), U uniform in (0, 1): float64, CPU.
/// Random   one uniform per element, in row-major order.
Tensor GumbelNoise(at::IntArrayRef sizes, Rng& rng);

/// sigmoid((logits + noise + offset) / temperature).
///
/// Source   the one-sided relaxation of Auto-Train-Once, DISP-LLM and APTP: one Gumbel variable,
/// not
///          the difference of two.
/// Units    P(gate > 1/2) = 1 - exp(-exp(logit + offset)); offset 3 opens all gates at logit 0.
/// Errors   internal unless temperature > 0.
Tensor GumbelSigmoid(const Tensor& logits, const Tensor& noise, double temperature, double offset);

/// |x - round(x)|: how far each gate is from 0 or 1, in [0, 1/2]. Round has gradient 0, so the
/// gradient is +1 below 1/2 and -1 above.
Tensor DistanceToBinary(const Tensor& gates);

}  // namespace espalier

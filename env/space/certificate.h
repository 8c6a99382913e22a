#pragma once

#include <nlohmann/json_fwd.hpp>

#include <cstdint>
#include <string>

#include "env/space/plan.h"

namespace espalier {

/// Proof that a cut is exact, made by the program on every cut and re-checked by `espalier verify`.
///
/// Masked == pruned: M is the original network with every read of a removed unit multiplied by
/// zero; P is the cut network. max|P - M| <= tolerance * max|M| at two batch sizes, in double
/// precision with randomised batch-norm statistics, so that leaks are visible.
/// Invariance: zero all reads of a random half of the units, then overwrite their producer rows
/// with noise: the output must not change by a single bit. Control: the uncut output differs from M
/// by more than 1e-2 relative, else the test proves nothing; where weights that hardly matter were
/// removed, with these overwritten by noise, which must not reach M.
struct Certificate {
  bool passed = false;
  double max_abs_error = 0;      ///< float32, the real weights, worst of two batch sizes
  double max_rel_error = 0;      ///< divided by max|M|
  double max_rel_error_f64 = 0;  ///< double precision, randomised statistics
  /// For max_rel_error: what the network's precision and its norms account for, or four times the
  /// difference of M from M in double where that is more (0.1 at most).
  double tolerance = 1e-5;
  static constexpr double kToleranceFloat64 = 1e-10;  ///< for max_rel_error_f64
  bool invariance_exact = false;
  int64_t invariance_units = 0;  ///< units in the random half
  double control = 0;            ///< relative difference of original and masked output
  double noise = 0;     ///< that the control needed, in deviations of each weight; 0 = none
  std::string failure;  ///< first differing op, when it failed
  std::string source_sha256, pruned_sha256, plan_sha256;  ///< weight hashes, plan JSON hash
};

/// load: content of the pruned network's tensors where its store has only shapes (CutStreamed).
/// Errors   internal when the selection or the pruned network is not of this Space.
/// Memory   in double there are only the weights of the op that runs, unless all are small.
Certificate Certify(const Space& space, const Selection& selection, const Plan& plan,
                    const Network& pruned, uint64_t seed = 0, const TensorLoader& load = {});
nlohmann::json ToJson(const Certificate& certificate);
Certificate CertificateFromJson(const nlohmann::json& json);

}  // namespace espalier

#pragma once

#include <string>
#include <vector>

#include "criteria/statistics.h"
#include "env/space/plan.h"
#include "env/space/space.h"

namespace espalier {

/// Weights of the uncut network in which every consumer that loses columns has moved them to those
/// that stay, so that its outputs change least over the calibration inputs: W_S = W C_:S (C_SS)^-1
/// with a ridge. A cut with the same selection then takes the compensated columns. One closed form
/// for what optimal brain surgery calls the joint update and MoDeGPT the Nystrom form; useful after
/// any criterion.
///
/// Source   arXiv:2203.07259 (groups of weights); arXiv:2408.09632, type I.
/// Deviates All consumers at once, on the inputs of the uncut network: no second pass. Compensate
///          (search/compensate.h) goes front to back on the inputs the cut network gives, for a
///          forward of both networks.
/// Errors   internal when the selection is not of this space; kConfig without Gram statistics.
/// Returns  a store that shares every tensor it does not change; with nothing removed all of them.
struct Compensation {
  ParameterStore store;
  std::vector<std::string> layers;   ///< canonical names of weights that moved
  std::vector<std::string> skipped;  ///< consumers that lose columns but have no Gram matrix
};
Compensation CompensateConsumers(const Space& space, const ParameterStore& store,
                                 const Selection& selection, const Statistics& statistics,
                                 double ridge = 1e-3);

}  // namespace espalier

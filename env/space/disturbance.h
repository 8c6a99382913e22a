#pragma once

#include <ATen/core/Generator.h>

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "env/space/plan.h"

// Weights that make the proof of a cut bite.

namespace espalier {

double MaxAbs(const Tensor& tensor);  ///< 0 of an empty one
/// A stream of the certificate's own for each purpose.
at::Generator NoiseStream(uint64_t seed, const std::string& purpose);

/// Weights in double, with normalisation parameters drawn at random, so that a leaked channel
/// cannot hide behind a zero mean, and multipliers close to zero (layer scale) brought to order 1.
class Disturbance {
 public:
  Disturbance(const Network& network, uint64_t seed);

  bool Touches(const std::string& name) const { return ranges_.contains(name); }
  /// tensor: what is stored under the canonical name; or a part of it where that is not touched.
  Tensor Of(const std::string& name, const Tensor& tensor) const;

 private:
  const uint64_t seed_;
  std::map<std::string, std::pair<double, double>> ranges_;  // by canonical name
};

/// Producer rows of the chosen units, overwritten with noise of three times the weight's deviation.
TensorLoader NoisyProducers(const Space& space, const ParameterStore& store,
                            const std::vector<uint8_t>& chosen, uint64_t seed);

/// All that the plan takes out of weights, overwritten with noise of so many times the weight's
/// deviation; buffers stay. Borrows all it is given.
TensorLoader NoisyRemoved(const Plan& plan, const ParameterStore& store, const TensorLoader& load,
                          double deviations, uint64_t seed);

}  // namespace espalier

#pragma once

#include <string>
#include <vector>

#include "env/base/tensor.h"

namespace espalier {

/// How much better one method is than another, over seeds and samples.
struct PairedDifference {
  double mean = 0;
  double half_width = 0;        ///< of the 95 % interval around it
  std::string Verdict() const;  ///< "better", "worse", or "tie" when the interval holds zero
};

/// a, b: one tensor [N] per seed, what every sample contributes to the figure, larger = better; a
/// seed of one stands beside the same seed of the other, on the same samples.
///
/// The interval joins two sources of chance in quadrature: seeds (Student's t on the differences of
/// the means) and samples (normal, on the differences averaged over seeds). With one seed the first
/// is unknown and left out.
/// Errors: internal when numbers of seeds or samples differ.
PairedDifference Compare(const std::vector<Tensor>& a, const std::vector<Tensor>& b);

struct Spread {
  double mean = 0, deviation = 0;  ///< deviation over seeds, n - 1; 0 for one
};
Spread SpreadOf(const std::vector<double>& values);

}  // namespace espalier

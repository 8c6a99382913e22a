#pragma once

#include <string>
#include <utility>
#include <vector>

#include "env/graph/executor.h"
#include "env/graph/size_expression.h"

namespace espalier {

/// SampleInputs with every floating tensor replaced by standard normal noise of its own dtype.
std::vector<Tensor> RandomInputs(const Network& network, int64_t batch, uint64_t seed);

/// Makes these tensors the network's sample inputs, by name ("x") or by place ("in0"); open sizes
/// other than the batch take theirs. Inputs that are not named keep what they have.
/// Errors   kModel for unknown names (with the nearest), other dtypes, ranks or fixed sizes.
void SetSampleInputs(Network& network, const std::vector<std::pair<std::string, Tensor>>& named);

/// For integer inputs that are used as indices: the number of rows of the smallest table they
/// index, through views, slices and casts. 0 where that is not known, or the input is no index.
std::vector<int64_t> IndexBounds(const Network& network);

}  // namespace espalier

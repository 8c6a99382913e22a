#pragma once

#include <functional>
#include <string>

#include "env/graph/network.h"

namespace espalier {

/// Makes the content of a stored tensor, by canonical name, whenever it is needed: how networks are
/// hashed, run and written that are too large to be there a second time. The result may share
/// memory with what it was made from and is not to be changed.
using TensorLoader = std::function<Tensor(const std::string& name)>;

/// What the store holds. Borrows it.
TensorLoader LoaderOf(const ParameterStore& store);

/// The same tensors, each made once and kept while all of them take at most `most_bytes` as
/// float64; else `load` itself.
TensorLoader Remembering(TensorLoader load, const ParameterStore& store, int64_t most_bytes);

/// As Network::WeightsHash.
std::string WeightsHash(const ParameterStore& store, const TensorLoader& load);

/// The store with zeros in place of tensors that have a shape only; they take memory where they are
/// written to, which is nowhere. For runs that only ask for shapes and strides.
ParameterStore ZerosForShapes(const ParameterStore& store);

/// Outputs for several sets of inputs, in eval mode. Ops run one after the other, each for all
/// sets, and what an op reads of the store is there for its time only. store: says what there is;
/// floating tensors may be of meta type. Ops that draw random numbers draw the same ones every
/// time.
std::vector<std::vector<Tensor>> RunStreamed(const Graph& graph, const ParameterStore& store,
                                             const TensorLoader& load,
                                             const std::vector<std::vector<Tensor>>& inputs);

}  // namespace espalier

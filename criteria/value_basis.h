#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "criteria/scope.h"
#include "criteria/statistics.h"
#include "env/space/space.h"

namespace espalier {

/// The dims of one head's values.
struct ValueHead {
  size_t group = 0;
  std::vector<int64_t> units;  ///< [dims] of the group
  std::vector<int64_t> rows;   ///< [dims] of the producer's weight, and of its bias
  /// [times][dims] columns of the consumer's weight: more than once where query heads share
  /// values, or a kernel reads them.
  std::vector<std::vector<int64_t>> columns;
};
/// One layer makes the values, one alone reads them, and an attention adds them up over positions
/// in between.
struct ValueLayer {
  std::string producer, bias, consumer;  ///< canonical store names; bias may be empty
  int32_t reader = -1;                   ///< the op that computes with the consumer's weight
  /// [ways][heads]: a projection that packs queries, keys and values has several rows for a unit,
  /// and a trial tells which of them are the values.
  std::vector<std::vector<ValueHead>> ways;
};
/// All layers of this form whose heads have dims as units. What lies between is not asked.
std::vector<ValueLayer> FindValueLayers(const Space& space, const ParameterStore& store);

/// The same network with every head's values in the basis of its singular directions, the largest
/// first: W_v and W_o become the two factors of all ranks, so that the first k dims of a head are
/// the best k there are for the inputs seen. Nothing is lost yet; a cut of the last dims is
/// MoDeGPT's type III compression.
///
/// Source   Lin et al., "MoDeGPT", arXiv:2408.09632, type III.
/// Symbols  W_v -> the head's rows; W_o -> its columns; C -> Gram of the producer's inputs.
/// Deviates The bias of W_v counts as a further input that is 1. C is damped by 1e-6 of its mean
///          diagonal, so that directions the inputs never took keep their values. Factors are
///          scaled so that a dim's row and columns have equal norms. Query heads that share a
///          value head are stacked.
/// Errors   kInterrupted and kTrials as CollectStatistics.
/// Cost     a forward a batch with a Gram matrix for each producer; a Cholesky factor of each and a
///          singular value decomposition for each head; a forward of a few samples for each
///          producer, which shows that its outputs did not change.
struct ValueBasis {
  ParameterStore store;                ///< shares every tensor it does not change
  std::vector<ValueLayer> layers;      ///< those in the new basis, with the way that is the values
  std::vector<std::string> unchanged;  ///< the others: "WEIGHT: why"

  std::vector<std::string> names() const;  ///< the layers' producers
  /// Moves directions from dim to dim, within each head and among the units that are left, so that
  /// larger singular values are where scores are higher: the scores say how many dims a head keeps
  /// and, where queries and keys share them, which; the basis what they carry.
  void Arrange(const Scores& scores, const Selection& left);

 private:
  friend ValueBasis TurnValues(const Space&, const ParameterStore&, const Calibration&);
  std::vector<std::vector<std::vector<int64_t>>> direction_{};  // [layers][heads][dims]
};
ValueBasis TurnValues(const Space& space, const ParameterStore& store,
                      const Calibration& calibration);

}  // namespace espalier

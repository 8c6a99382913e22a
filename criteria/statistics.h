#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "env/base/tensor.h"
#include "env/data/dataset.h"
#include "env/graph/network.h"
#include "env/space/space.h"

namespace espalier {

/// What a criterion wants to know beyond the weights.
enum class Need {
  kForward,          ///< moments of the values where units are read
  kRank,             ///< ranks of feature maps where units are read
  kGram,             ///< second moments of what each consumer's weights multiply
  kGramDiagonal,     ///< of those only the diagonal; kGram brings it along
  kValueGram,        ///< kGram of the layers that make attentions' values
  kGradient,         ///< gradients of the loss, batch by batch
  kSampleGradient,   ///< gradients of the loss, sample by sample
  kSampleExpansion,  ///< two terms of each sample's expansion, in those gradients
  kBlockProducts,    ///< sample by sample, for blocks of each unit's weights
  kFisherBlocks,     ///< the empirical Fisher matrix of each block; takes memory
  kAblation,         ///< the loss with each unit masked: the oracle
};
using Needs = std::set<Need>;
const char* NeedName(Need need);  ///< "forward", "sample gradient", ...

/// The loss of a batch, a mean over its samples: outputs of the network, batch -> [] .
using CalibrationLoss =
    std::function<Tensor(const std::vector<Tensor>& outputs, const Batch& batch)>;
/// The same of one batch, which it keeps.
using BatchLoss = std::function<Tensor(const std::vector<Tensor>& outputs)>;
/// Of the first output, [B, classes] or [B, T, classes]; first target [B] or [B, T] int64.
Tensor CrossEntropy(const std::vector<Tensor>& outputs, const Batch& batch);

/// Data that statistics are taken from.
struct Calibration {
  int64_t batches = 0;
  std::function<Batch(int64_t batch)> get;  ///< the same batch for the same number
  CalibrationLoss loss = CrossEntropy;
  /// What is measured where no gradient is taken (ablation), made once for each batch; empty: loss.
  /// They differ where the task has no gradient at the uncut network.
  std::function<BatchLoss(const Batch& batch)> objective{};
  int64_t max_samples = 256;  ///< of the sample gradients: the first ones of the batches
  int64_t max_gram = 4608;    ///< consumers with more columns keep the diagonal only
  int64_t max_gram_bytes = int64_t{2} << 30;  ///< of all Grams; the widest keep the diagonal only
  int64_t fisher_block = 128;  ///< most weights of a block: larger units are split and summed
  int64_t max_fisher_bytes = int64_t{4} << 30;  ///< of all Fisher blocks; more is an error
  int64_t max_rank_samples = 32;                ///< of each batch, for the ranks of feature maps
  at::Device device = at::kCPU;
  std::function<bool()> stop{};  ///< asked between batches; may be empty
  std::function<void(int64_t done, int64_t total)> progress{};  ///< batches; may be empty
};
/// Batches that are at hand.
Calibration CalibrationOf(std::vector<Batch> batches);

/// Statistics of one parameter: whole tensors in its shape, float32, CPU. Undefined = not
/// collected.
struct ParameterStatistics {
  Tensor gradient{};              ///< mean over batches of g
  Tensor abs_product{};           ///< mean over batches of |w g|
  Tensor sample_abs_product{};    ///< mean over samples of |w g_s|
  Tensor fisher{};                ///< mean over samples of g_s^2: the empirical Fisher diagonal
  Tensor sample_abs_expansion{};  ///< mean over samples of |w g_s - (w g_s)^2 / 2|
};

/// Of one member of a group: u = the sum of w g over what leaves with a unit. [units] float64.
struct ProductStatistics {
  Tensor absolute{}, square{};                ///< means over batches of |u| and u^2
  Tensor sample_absolute{}, sample_square{};  ///< means over samples of |u_s| and u_s^2
  int64_t block = 0;                          ///< Calibration::fisher_block, of samples
  Tensor block_square{};   ///< mean over samples of the sum of u_sb^2 over the blocks b of a unit
  Tensor fisher_blocks{};  ///< mean over samples of g_sb g_sb^T: [units, blocks, block, block] of
                           ///< InBlocks; float64
};

/// Of a value where units are read. [coordinates] float64, in the order of `unit`.
struct ReadStatistics {
  int32_t op = -1, arg = -1;
  std::vector<int32_t> unit;  ///< global unit of each coordinate, -1 = not prunable
  Tensor mean_abs{};          ///< E |x| over samples and positions
  Tensor energy{};            ///< E x^2
  Tensor partner_energy{};    ///< E x^2 of what it is multiplied with, where an attention's queries
                              ///< are read: of the keys; else undefined
  Tensor rank{};              ///< mean rank of the feature map [H, W]; without one: E [x != 0]
};

/// Of what one layer multiplies: columns in the order of its weight seen as [rows, columns].
struct GramStatistics {
  Tensor gram{};      ///< mean over positions of x x^T, [columns, columns] float64; undefined when
                      ///< there are too many columns, see Calibration
  Tensor diagonal{};  ///< its diagonal, always
  Tensor mean{};      ///< mean over positions of x, always
};

/// What one pass over calibration batches found; it serves every criterion.
struct Statistics {
  Needs collected;
  int64_t batches = 0, samples = 0;  ///< samples: of the sample gradients
  double loss = 0;                   ///< mean over batches; 0 when none was computed
  std::map<std::string, ParameterStatistics> parameters;  ///< by canonical name
  std::vector<std::vector<ProductStatistics>> products;   ///< [group][member]
  std::vector<ReadStatistics> reads;
  std::map<std::string, GramStatistics> grams;  ///< by canonical name of the consumer's weight
  Tensor ablation{};  ///< [total units] float64: increase of the loss when a unit is masked
};

/// Collects all statistics in one pass: one forward a batch, with one backward when gradients are
/// needed; sample gradients add the same (sample by sample for networks of convolutions on
/// CPUs, and for others named in criteria/sample_gradients.h), ablation a forward for each unit and
/// batch. Everything runs in eval mode, so that samples do not meet in batch norms.
///
/// Units    sums are means, so that the number of batches does not scale them.
/// Errors   kInterrupted when stop() says so; kTrials when a loss is not finite; kModel when the
///          loss is not a scalar.
/// Cost     memory: a few tensors in the shape of the grouped parameters (float32) and the Gram
///          matrices (float64); time of the gradient statistics: a few passes over the parameters.
Statistics CollectStatistics(const Space& space, const ParameterStore& store, const Needs& needs,
                             const Calibration& calibration);

/// Mean objective with each set of units (global numbers) masked together: exact, forward only. An
/// empty set gives that of the network as it is. A residual branch is bypassed exactly by masking
/// its unit (kind "depth"), or, where it is cut apart from its trunk, all units of its last group.
std::vector<double> MaskedLosses(const Space& space, const ParameterStore& store,
                                 const Calibration& calibration,
                                 const std::vector<std::vector<int64_t>>& sets);

}  // namespace espalier

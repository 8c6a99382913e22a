#pragma once

#include "criteria/members.h"

namespace espalier {

struct WoodFisherConfig {
  MemberConfig over{};    ///< which members count and how they are joined
  double damping = 1e-7;  ///< lambda of F + lambda I; >= 0; the paper: 1e-7
  int64_t block = 128;    ///< B: most weights of a block; larger units are split and summed
  /// A block's weights go together; false: each for itself, added up, as the released code does.
  bool joint = true;
  bool tune = false;    ///< chooses lambda and m by trying them: see TuneWoodFisher
  int64_t samples = 0;  ///< m, at most; 0 = as many as the calibration takes; the paper: 1024
};
Schema Describe(WoodFisherConfig& config);

/// Block Fisher pruning of whole units: the second-order change of the loss when a unit's blocks of
/// weights go, with all cross terms inside each block.
///
/// Source   Kurtic et al., "The Optimal BERT Surgeon", arXiv:2203.07259: rho_Q = w_Q^T
///          (P_QQ)^-1 w_Q / 2 with P the inverse of F = lambda I + (1/m) sum_s g_s g_s^T; Singh,
///          Alistarh, "WoodFisher", arXiv:2004.14340.
/// Symbols  lambda -> damping, m -> samples, B -> block.
/// Deviates Structured: a block is what one unit owns of one parameter, in pieces of at most B
///          weights whose costs add up; the paper cuts rows of 50. Q is then the whole block, so
///          (P_QQ)^-1 is F itself and rho = (lambda |w|^2 + mean_s (w . g_s)^2) / 2, exactly and
///          without an inverse; nothing of the block is left to compensate. joint = false needs the
///          inverse: the sum of w_q^2 / (2 P_qq).
/// Units    of the loss; >= 0; comparable across groups.
/// Errors   internal: empty group; kModel: a group of which no member is scored, or (joint = false)
///          a block that is not positive definite; kConfig: statistics of other blocks.
/// Cost     a forward and backward of each sample; joint = false also B numbers for each weight.
class WoodFisher final : public Criterion {
 public:
  explicit WoodFisher(const WoodFisherConfig& config) : config_(config) {}
  Needs needs() const override {
    return {Need::kSampleGradient, config_.joint ? Need::kBlockProducts : Need::kFisherBlocks};
  }
  void Adjust(Calibration& calibration) const override;
  std::unique_ptr<Criterion> Tuned(const Space& space, const ParameterStore& store,
                                   const Calibration& calibration,
                                   const Report& report) const override;
  Tensor Score(const GroupView& group, uint64_t seed) const override;

 private:
  Tensor ScoreSlice(const GroupView::Slice& slice) const;
  const WoodFisherConfig config_;
};

/// One try of TuneWoodFisher.
struct WoodFisherTrial {
  double damping = 0;
  int64_t samples = 0;
  double loss = 0;  ///< objective of the calibration batches without the units that score lowest
};
/// Tries lambda in {1e-4, ..., 1e-8} with m in {256, 512, 1024, 2048}, as far as the calibration
/// has samples: masks the `removed_share` of all units that scores lowest and measures the
/// objective. Best first; of equals the larger lambda and the smaller m.
///
/// Source   the grid: arXiv:2203.07259, whose authors call lambda the most delicate choice.
/// Deviates They compare networks after pruning and tuning; we mask, in one shot.
/// Cost     gradients of the samples of every m, and at most 20 forwards of the batches.
std::vector<WoodFisherTrial> TuneWoodFisher(const Space& space, const ParameterStore& store,
                                            const Calibration& calibration,
                                            const WoodFisherConfig& config,
                                            double removed_share = 0.3);

}  // namespace espalier

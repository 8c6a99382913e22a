#include "criteria/wood_fisher.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "criteria/scope.h"
#include "criteria/second_order.h"

namespace espalier {
namespace {

/// m of the grid, as far as there are samples.
std::vector<int64_t> SampleCounts(const Calibration& calibration) {
  int64_t available = 0;
  for (int64_t b = 0; b < calibration.batches && available < calibration.max_samples; ++b)
    available += calibration.get(b).size();
  available = std::min(available, calibration.max_samples);
  std::vector<int64_t> counts;
  for (const int64_t count : {256, 512, 1024, 2048})
    if (count <= available) counts.push_back(count);
  if (counts.empty()) counts.push_back(available);
  return counts;
}

/// Global numbers of the units that score lowest; the best of each group stays.
std::vector<int64_t> LowestUnits(const Space& space, const Scores& scores, double share) {
  const std::vector<int64_t> kept =
      CountsAtShare(scores, std::vector<int64_t>(scores.size(), 0), 1 - share);
  const std::vector<uint8_t> mask = UnitMask(space, SelectTop(space, scores, kept));
  std::vector<int64_t> lowest;
  for (size_t unit = 0; unit < mask.size(); ++unit)
    if (mask[unit] == 0) lowest.push_back(static_cast<int64_t>(unit));
  return lowest;
}

}  // namespace

Schema Describe(WoodFisherConfig& config) {
  Schema schema;
  schema.Add("damping", &config.damping, "added to the Fisher matrix's diagonal", {.low = 0});
  schema.Add("block", &config.block, "most weights of a block; larger units are split and summed",
             {.low = 1});
  schema.Add("joint", &config.joint,
             "a block's weights go together; false: each for itself, added up");
  schema.Add(
      "tune", &config.tune,
      "find damping (1e-4 ... 1e-8) and samples (256 ... 2048) by masking 30 % of the units");
  schema.Add("samples", &config.samples, "gradients, at most; 0 = all that the calibration takes",
             {.low = 0});
  AddMemberFields(schema, config.over);
  return schema;
}

void WoodFisher::Adjust(Calibration& calibration) const {
  calibration.fisher_block = config_.block;
  if (config_.samples > 0)
    calibration.max_samples = std::min(calibration.max_samples, config_.samples);
}

Tensor WoodFisher::ScoreSlice(const GroupView::Slice& slice) const {
  ESPALIER_CHECK(slice.products, "'", slice.parameter, "' has no gradients");
  const ProductStatistics& found = *slice.products;
  if (found.block != config_.block)
    throw Error(ErrorKind::kConfig,
                Str("wood_fisher(block=", config_.block, "): the statistics are of blocks of ",
                    found.block),
                "one collection has blocks of one size");
  if (config_.joint)  // rho_Q with Q the whole block: w^T (lambda I + (1/m) sum g g^T) w / 2
    return 0.5 * (found.block_square + config_.damping * slice.SumPowers(2));
  const Tensor w = InBlocks(slice.Rows(), config_.block);  // [units, blocks, B]
  Tensor fisher = found.fisher_blocks.clone();             // [units, blocks, B, B]
  fisher.diagonal(0, -2, -1).add_(config_.damping);
  return RemovalCosts(w, InverseOf(fisher)).sum({1, 2});
}

Tensor WoodFisher::Score(const GroupView& group, uint64_t /*seed*/) const {
  return ScoreMembers(group, config_.over,
                      [&](const GroupView::Slice& slice) { return ScoreSlice(slice); });
}

std::vector<WoodFisherTrial> TuneWoodFisher(const Space& space, const ParameterStore& store,
                                            const Calibration& calibration,
                                            const WoodFisherConfig& config, double removed_share) {
  std::vector<WoodFisherTrial> trials;
  std::vector<std::vector<int64_t>> sets;
  for (const int64_t samples : SampleCounts(calibration)) {
    WoodFisherConfig own = config;
    own.samples = samples;
    Calibration part = calibration;
    WoodFisher(own).Adjust(part);
    const Statistics statistics = CollectStatistics(space, store, WoodFisher(own).needs(), part);
    for (const double damping : {1e-4, 1e-5, 1e-6, 1e-7, 1e-8}) {
      own.damping = damping;
      sets.push_back(
          LowestUnits(space, ScoreGroups(WoodFisher(own), space, store, /*seed=*/0, &statistics),
                      removed_share));
      trials.push_back({.damping = damping, .samples = samples});
    }
  }
  const std::vector<double> losses = MaskedLosses(space, store, calibration, sets);
  for (size_t i = 0; i < trials.size(); ++i) trials[i].loss = losses[i];
  std::stable_sort(trials.begin(), trials.end(),
                   [](const auto& a, const auto& b) { return a.loss < b.loss; });
  return trials;
}

std::unique_ptr<Criterion> WoodFisher::Tuned(const Space& space, const ParameterStore& store,
                                             const Calibration& calibration,
                                             const Report& report) const {
  if (!config_.tune) return nullptr;
  const WoodFisherTrial best = TuneWoodFisher(space, store, calibration, config_).front();
  WoodFisherConfig config = config_;
  config.tune = false;
  config.damping = best.damping;
  config.samples = best.samples;
  report("damping", best.damping);
  report("samples", static_cast<double>(best.samples));
  return std::make_unique<WoodFisher>(config);
}

ESPALIER_REGISTER_CRITERION(WoodFisher, WoodFisherConfig,
                            {.name = "wood_fisher",
                             .summary = "loss change by the Fisher block of each unit",
                             .source = "arXiv:2203.07259; arXiv:2004.14340",
                             .facts = {kAcrossGroups, "deterministic"}})

}  // namespace espalier

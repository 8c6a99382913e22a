#include "criteria/taylor.h"

#include <ATen/ATen.h>

namespace espalier {

Schema Describe(TaylorConfig& config) {
  Schema schema;
  schema.Add("mode", &config.mode, "which term of the expansion",
             {"vector", "squared", "element_1", "element_2", "mixed"});
  schema.Add("accumulate", &config.accumulate,
             "absolute values are taken of the mean gradient, of every batch's, or every sample's; "
             "auto = signed, of element_2 sample; element_2 knows sample only, mixed no batch",
             {"signed", "batch", "sample", "auto"});
  AddMemberFields(schema, config.over);
  return schema;
}

namespace {

TaylorConfig Settled(TaylorConfig config) {
  std::string& accumulate = config.accumulate;
  const bool fisher = config.mode == "element_2";
  if (accumulate == "auto") accumulate = fisher ? "sample" : "signed";
  if ((fisher && accumulate != "sample") || (config.mode == "mixed" && accumulate == "batch"))
    throw Error(ErrorKind::kConfig,
                Str("taylor(mode=", config.mode, ", accumulate=", accumulate,
                    "): the mode's F = E g^2 is a mean over samples"),
                fisher ? "accumulate=sample, or leave it out: a square has no sign"
                       : "accumulate=signed takes the mean gradient beside F, sample each its own");
  return config;
}

}  // namespace

Taylor::Taylor(const TaylorConfig& config) : config_(Settled(config)) {}

Needs Taylor::needs() const {
  if (config_.mode == "mixed" && config_.accumulate == "sample")
    return {Need::kSampleGradient, Need::kSampleExpansion};
  if (config_.mode == "mixed") return {Need::kGradient, Need::kSampleGradient};
  return {config_.accumulate == "sample" ? Need::kSampleGradient : Need::kGradient};
}

/// |u| or u^2 with u = sum_i w_i g_i.
Tensor Taylor::Products(const GroupView::Slice& slice, bool squared) const {
  if (config_.accumulate == "batch")
    return squared ? slice.products->square : slice.products->absolute;
  if (config_.accumulate == "sample")
    return squared ? slice.products->sample_square : slice.products->sample_absolute;
  const Tensor u = slice.layout.Sum(slice.weight * slice.statistics->gradient);
  return squared ? u.square() : u.abs();
}

Tensor Taylor::ScoreSlice(const GroupView::Slice& slice) const {
  ESPALIER_CHECK(slice.statistics && slice.products, "'", slice.parameter, "' has no gradients");
  const ParameterStatistics& found = *slice.statistics;
  if (config_.mode == "vector") return Products(slice, false);
  if (config_.mode == "squared") return Products(slice, true);
  if (config_.mode == "element_2") return slice.layout.Sum(slice.weight.square() * found.fisher);
  if (config_.mode == "mixed" && config_.accumulate == "sample")
    return slice.layout.Sum(found.sample_abs_expansion);
  if (config_.mode == "mixed")
    return slice.layout.SumPowers(
        slice.weight * found.gradient - 0.5 * slice.weight.square() * found.fisher, 1);
  if (config_.accumulate == "batch") return slice.layout.Sum(found.abs_product);
  if (config_.accumulate == "sample") return slice.layout.Sum(found.sample_abs_product);
  return slice.layout.SumPowers(slice.weight * found.gradient, 1);
}

Tensor Taylor::Score(const GroupView& group, uint64_t /*seed*/) const {
  return ScoreMembers(group, config_.over,
                      [&](const GroupView::Slice& slice) { return ScoreSlice(slice); });
}

ESPALIER_REGISTER_CRITERION(Taylor, TaylorConfig,
                            {.name = "taylor",
                             .summary = "weights times gradients: the loss's expansion",
                             .source = "arXiv:2305.11627; arXiv:1906.10771",
                             .facts = {kAcrossGroups, "deterministic"}})

}  // namespace espalier

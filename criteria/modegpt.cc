#include "criteria/modegpt.h"

#include <ATen/ATen.h>

#include "criteria/consumer_columns.h"
#include "criteria/modular.h"

namespace espalier {

Schema Describe(ModegptConfig& config) {
  Schema schema;
  schema.Add("ridge", &config.ridge, "of the leverages, relative to the mean diagonal",
             RealRange{.low = 0, .open_low = true});
  schema.Add("reduce", &config.reduce, "how several consumers become one", kReduceNames);
  return schema;
}

Tensor Modegpt::Leverages(const GroupView& group, const GroupView::Slice& slice) const {
  const GramStatistics& gram = *slice.gram;
  const Tensor leverage =  // without a matrix its diagonal stands alone
      gram.gram.defined() ? RidgeLeverage(gram.gram, config_.ridge)
                          : gram.diagonal / (gram.diagonal + config_.ridge * gram.diagonal.mean());
  const auto* values = leverage.const_data_ptr<double>();
  const auto columns = ColumnsByUnit(slice.layout, slice.weight);
  std::vector<double> scores(static_cast<size_t>(group.units), 0);
  for (size_t unit = 0; unit < columns.size(); ++unit)
    for (const int64_t column : columns[unit]) scores[unit] += values[column];
  return at::tensor(scores, at::kDouble);
}

Tensor Modegpt::Score(const GroupView& group, uint64_t /*seed*/) const {
  ESPALIER_CHECK(group.units > 0 && !group.slices.empty(), "group '", group.name, "' is empty");
  const Reduce reduce = ParseReduce(config_.reduce);
  std::vector<Tensor> consumers;                     // [consumers][units]
  for (const GroupView::Read& read : group.reads) {  // type II
    const ReadStatistics& found = *read.statistics;
    if (!found.partner_energy.defined()) continue;
    consumers.push_back(read.Sum(CrScores(found.energy, found.partner_energy).square()));
  }
  if (!consumers.empty()) return ReduceMembers(consumers, reduce).sqrt();
  for (const GroupView::Slice& slice : group.slices)  // type I
    if (HasGram(slice)) consumers.push_back(Leverages(group, slice));
  if (!consumers.empty()) return ReduceMembers(consumers, reduce);
  for (const GroupView::Read& read : group.reads) {
    if (!read.statistics->energy.defined()) continue;
    const Tensor energy = read.Sum(read.statistics->energy);
    const Tensor ridged = energy + config_.ridge * energy.mean();
    consumers.push_back(energy / ridged.clamp_min(1e-300));  // 0 / 0 is 0
  }
  if (consumers.empty())
    throw Error(ErrorKind::kModel, Str("group '", group.name, "': no activation carries its units"),
                "choose a criterion on weights, or exclude the layer: space.exclude");
  return ReduceMembers(consumers, reduce);
}

ESPALIER_REGISTER_CRITERION(Modegpt, ModegptConfig,
                            {.name = "modegpt",
                             .summary = "leverage of a unit among those its consumers read",
                             .source = "arXiv:2408.09632",
                             .facts = {"deterministic"}})

}  // namespace espalier

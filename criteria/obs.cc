#include "criteria/obs.h"

#include <ATen/ATen.h>

#include "criteria/consumer_columns.h"
#include "criteria/second_order.h"

namespace espalier {

Schema Describe(ObsConfig& config) {
  Schema schema;
  schema.Add("damping", &config.damping, "of H, relative to its mean diagonal",
             RealRange{.low = 0, .open_low = true});
  schema.Add("reduce", &config.reduce, "how several consumers become one", kReduceNames);
  schema.Add("joint", &config.joint,
             "the columns of a unit go together; false: each for itself, added up");
  return schema;
}

Tensor Obs::ScoreSlice(const GroupView& group, const GroupView::Slice& slice) const {
  if (!slice.gram->gram.defined()) return WeightedEnergy(slice);  // w^2 H_jj / 2
  const Tensor weight = slice.weight.to(at::kCPU, at::kDouble);
  const Tensor rows = WithoutDeadColumns(weight.reshape({weight.size(0), -1}), slice.gram->gram);
  const Tensor inverse = InverseOf(Damp(2 * slice.gram->gram, config_.damping));
  if (!config_.joint) return slice.layout.Sum(RemovalCosts(rows, inverse).reshape(weight.sizes()));
  const auto columns = ColumnsByUnit(slice.layout, weight);
  std::vector<double> scores;
  for (int64_t unit = 0; unit < group.units; ++unit)
    scores.push_back(RemovalCost(rows, inverse, columns[static_cast<size_t>(unit)]));
  return at::tensor(scores, at::kDouble);
}

Tensor Obs::Score(const GroupView& group, uint64_t /*seed*/) const {
  ESPALIER_CHECK(group.units > 0 && !group.slices.empty(), "group '", group.name, "' is empty");
  std::vector<Tensor> consumers;  // [consumers][units]
  for (const GroupView::Slice& slice : group.slices)
    if (HasGram(slice)) consumers.push_back(ScoreSlice(group, slice));
  if (consumers.empty())
    for (const GroupView::Read& read : group.reads)  // w = 1 for each unit alone: H_uu / 2
      if (read.statistics->energy.defined()) consumers.push_back(read.Sum(read.statistics->energy));
  if (consumers.empty())
    throw Error(ErrorKind::kModel, Str("group '", group.name, "': no activation carries its units"),
                "choose a criterion on weights, or exclude the layer: space.exclude");
  return ReduceMembers(consumers, ParseReduce(config_.reduce));
}

ESPALIER_REGISTER_CRITERION(Obs, ObsConfig,
                            {.name = "obs",
                             .summary = "optimal brain surgery on the consumers' inputs",
                             .source = "arXiv:2301.00774; arXiv:2203.07259",
                             .facts = {"deterministic"}})

}  // namespace espalier

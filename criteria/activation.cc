#include "criteria/activation.h"

#include <ATen/ATen.h>

#include "criteria/consumer_columns.h"

namespace espalier {

Schema Describe(ActivationConfig& config) {
  Schema schema;
  schema.Add(
      "mode", &config.mode,
      "mean square, mean absolute value, or mean square times that of the weights that read it",
      {"energy", "mean", "weighted"});
  schema.Add("reduce", &config.reduce, "how several places where the unit is read become one",
             kReduceNames);
  return schema;
}

Tensor Activation::Score(const GroupView& group, uint64_t /*seed*/) const {
  ESPALIER_CHECK(group.units > 0 && !group.slices.empty(), "group '", group.name, "' is empty");
  std::vector<Tensor> reads;
  for (const GroupView::Slice& slice : group.slices)
    if (config_.mode == "weighted" && HasGram(slice)) reads.push_back(WeightedEnergy(slice));
  if (!reads.empty()) return ReduceMembers(reads, ParseReduce(config_.reduce));
  for (const GroupView::Read& read : group.reads) {
    if (!read.statistics->energy.defined()) continue;
    reads.push_back(
        read.Sum(config_.mode == "mean" ? read.statistics->mean_abs : read.statistics->energy));
  }
  if (reads.empty())
    throw Error(ErrorKind::kModel, Str("group '", group.name, "': no activation carries its units"),
                "choose a criterion on weights, or exclude the layer: space.exclude");
  return ReduceMembers(reads, ParseReduce(config_.reduce));
}

ESPALIER_REGISTER_CRITERION(Activation, ActivationConfig,
                            {.name = "activation",
                             .summary = "mean square of the activations its consumers read",
                             .source = "arXiv:2407.14679",
                             .facts = {"deterministic"}})

}  // namespace espalier

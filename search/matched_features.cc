#include "search/matched_features.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "env/base/error.h"
#include "env/graph/executor.h"

namespace espalier {
namespace {

/// What residual additions make: sums of two computed values.
std::vector<ValueId> Sums(const Graph& graph) {
  const auto computed = [&](ValueId value) {
    return value != kNoValue && graph.values[static_cast<size_t>(value)].producer >= 0;
  };
  std::vector<ValueId> sums;
  for (const Op& op : graph.ops) {
    const std::string& name = op.handle.operator_name().name;
    const bool scatter = name == "aten::index_add";
    if (!scatter && name != "aten::add" && name != "aten::add_") continue;
    if (computed(op.ValueArg("self")) && computed(op.ValueArg(scatter ? "source" : "other")))
      sums.push_back(op.outputs.front());
  }
  return sums;
}

/// What convolutions and linear layers read.
std::vector<ValueId> LayerInputs(const Graph& graph) {
  std::vector<ValueId> inputs;
  for (const Op& op : graph.ops) {
    const int weight = op.ArgIndex("weight");
    if (weight < 0 || op.handle.operator_name().name.find("norm") != std::string::npos) continue;
    const ValueId value = op.ValueArg("input");
    if (value != kNoValue && graph.values[static_cast<size_t>(value)].producer >= 0 &&
        std::find(inputs.begin(), inputs.end(), value) == inputs.end())
      inputs.push_back(value);
  }
  return inputs;
}

/// The value after everything that changes it in place: what is recorded earlier changes with it.
ValueId Settled(const Graph& graph, ValueId value) {
  for (const Op& op : graph.ops)
    if (op.handle.operator_name().name.ends_with("_") && op.ValueArg("self") == value)
      value = op.outputs.front();
  return value;
}

/// By op: whether it goes with a removed branch.
std::vector<bool> OpsGone(const Space& space, const Selection& selection) {
  std::vector<bool> gone(space.network().graph.ops.size());
  for (const Branch& branch : space.branches())
    if (selection[static_cast<size_t>(branch.group)].empty())
      for (const int32_t op : branch.ops) gone[static_cast<size_t>(op)] = true;
  return gone;
}

}  // namespace

std::vector<Feature> MatchedFeatures(const Space& space, const Selection& selection) {
  const Graph& graph = space.network().graph;
  const std::vector<uint8_t> mask = EffectiveMask(space, UnitMask(space, selection));
  const std::vector<bool> gone = OpsGone(space, selection);
  const std::vector<ValueMeta> meta = InferMeta(space.network(), 2);
  std::vector<ValueId> places = Sums(graph);
  if (places.empty()) places = LayerInputs(graph);
  std::vector<Feature> features;
  for (const ValueId place : places) {
    const ValueId value = Settled(graph, place);
    const auto id = static_cast<size_t>(value);
    const ValueShape& shape = space.values()[id];
    if (gone[static_cast<size_t>(graph.values[id].producer)] ||
        !at::isFloatingType(meta[id].dtype) ||
        std::count(shape.in_block.begin(), shape.in_block.end(), 1) ||
        std::find(graph.outputs.begin(), graph.outputs.end(), value) != graph.outputs.end())
      continue;
    Feature feature{value};
    for (size_t axis = 0; axis < shape.unit.size(); ++axis) {
      std::vector<int64_t> kept;
      for (size_t i = 0; i < shape.unit[axis].size(); ++i) {
        const int32_t unit = shape.unit[axis][i];
        if (unit < 0 || mask[static_cast<size_t>(unit)]) kept.push_back(static_cast<int64_t>(i));
      }
      if (kept.size() < shape.unit[axis].size())
        feature.kept.emplace_back(static_cast<int64_t>(axis), at::tensor(kept, at::kLong));
    }
    features.push_back(std::move(feature));
  }
  if (features.empty())
    throw Error(
        ErrorKind::kModel,
        Str("nothing inside '", space.network().name, "' can be compared with the uncut network"),
        "the losses kl and mse_outputs compare what both return");
  return features;
}

}  // namespace espalier

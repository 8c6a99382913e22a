#include "env/space/plan.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "env/base/error.h"

namespace espalier {

Selection KeepAll(const Space& space) {
  Selection all;
  for (const Group& group : space.groups()) {
    all.emplace_back(static_cast<size_t>(group.units));
    std::iota(all.back().begin(), all.back().end(), 0);
  }
  return all;
}

std::vector<int64_t> KeptCounts(const Selection& selection) {
  std::vector<int64_t> counts;
  for (const auto& kept : selection) counts.push_back(static_cast<int64_t>(kept.size()));
  return counts;
}

Selection SelectTop(const Space& space, const std::vector<std::vector<double>>& scores,
                    const std::vector<int64_t>& counts) {
  ESPALIER_CHECK(scores.size() == space.groups().size() && counts.size() == scores.size(),
                 "scores for ", scores.size(), " groups, counts for ", counts.size(),
                 ", space has ", space.groups().size());
  Selection selection;
  for (size_t g = 0; g < scores.size(); ++g) {
    const Group& group = space.groups()[g];
    ESPALIER_CHECK(static_cast<int64_t>(scores[g].size()) == group.units, group.name, ": ",
                   scores[g].size(), " scores for ", group.units, " units");
    ESPALIER_CHECK(counts[g] >= 1 && counts[g] <= group.units && counts[g] % group.blocks == 0,
                   group.name, ": cannot keep ", counts[g], " of ", group.units, " units in ",
                   group.blocks, " blocks");
    const int64_t run = group.units / group.blocks;
    std::vector<int64_t> kept;
    for (int64_t block = 0; block < group.blocks; ++block) {
      std::vector<int64_t> order(static_cast<size_t>(run));
      std::iota(order.begin(), order.end(), block * run);
      std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
        return scores[g][static_cast<size_t>(a)] > scores[g][static_cast<size_t>(b)];
      });
      kept.insert(kept.end(), order.begin(), order.begin() + counts[g] / group.blocks);
    }
    std::sort(kept.begin(), kept.end());
    selection.push_back(std::move(kept));
  }
  return selection;
}

std::vector<uint8_t> UnitMask(const Space& space, const Selection& selection) {
  std::vector<uint8_t> mask(static_cast<size_t>(space.total_units()), 0);
  for (size_t g = 0; g < selection.size(); ++g)
    for (const int64_t unit : selection[g])
      mask[static_cast<size_t>(space.unit_offset(g) + unit)] = 1;
  return mask;
}

namespace {

void CheckSelection(const Space& space, const Selection& selection) {
  ESPALIER_CHECK(selection.size() == space.groups().size(), "selection has ", selection.size(),
                 " groups, the space ", space.groups().size());
  for (size_t g = 0; g < selection.size(); ++g) {
    const Group& group = space.groups()[g];
    const auto& kept = selection[g];
    ESPALIER_CHECK(!kept.empty(), group.name, ": nothing is kept");
    ESPALIER_CHECK(std::is_sorted(kept.begin(), kept.end()) &&
                       std::adjacent_find(kept.begin(), kept.end()) == kept.end() &&
                       kept.front() >= 0 && kept.back() < group.units,
                   group.name, ": kept units must be ascending and below ", group.units);
    const int64_t run = group.units / group.blocks;
    std::vector<int64_t> per_block(static_cast<size_t>(group.blocks), 0);
    for (const int64_t unit : kept) ++per_block[static_cast<size_t>(unit / run)];
    for (const int64_t count : per_block)
      ESPALIER_CHECK(count == per_block[0] && count > 0, group.name,
                     ": blocks keep unequal counts");
  }
}

/// Kept indices of every (parameter, axis) that loses coordinates.
void FillKept(const Space& space, const std::vector<uint8_t>& mask, Plan& plan) {
  struct Removed {
    int64_t blocks = 1;
    std::set<int64_t> indices;
  };
  std::map<std::pair<std::string, int64_t>, Removed> removed;
  for (size_t g = 0; g < space.groups().size(); ++g)
    for (const Member& member : space.groups()[g].members)
      for (int64_t unit = 0; unit < space.groups()[g].units; ++unit) {
        if (mask[static_cast<size_t>(space.unit_offset(g) + unit)]) continue;
        Removed& axis = removed[{member.parameter, member.axis}];
        axis.blocks = member.blocks;
        const auto first = member.indices.begin() + unit * member.per_unit;
        axis.indices.insert(first, first + member.per_unit);
      }
  for (const auto& [key, axis] : removed) {
    const auto& [parameter, number] = key;
    const int64_t size = space.network().store.Get(parameter).size(number);
    KeptAxis kept{number, std::vector<std::vector<int64_t>>(static_cast<size_t>(axis.blocks))};
    for (int64_t block = 0; block < axis.blocks; ++block)
      for (int64_t i = 0; i < size; ++i)
        if (!axis.indices.contains(block * size + i))
          kept.kept[static_cast<size_t>(block)].push_back(i);
    for (const auto& list : kept.kept)
      ESPALIER_CHECK(!list.empty() && list.size() == kept.kept.front().size(), parameter, " axis ",
                     number, ": blocks keep unequal counts, or nothing");
    plan.kept[parameter].push_back(std::move(kept));
  }
}

/// Follows the integer literals that name a cut width.
class LiteralEditor {
 public:
  LiteralEditor(const Space& space, const std::vector<uint8_t>& mask)
      : space_(space), mask_(mask) {}

  std::vector<LiteralEdit> Run() {
    const auto& ops = space_.network().graph.ops;
    for (size_t i = 0; i < ops.size(); ++i) {
      const std::string& name = ops[i].handle.operator_name().name;
      const auto index = static_cast<int32_t>(i);
      if (name.starts_with("aten::conv") || name == "aten::_convolution") Groups(ops[i], index);
      if (name == "aten::constant_pad_nd" || name == "aten::pad") Pads(ops[i], index);
      if (name == "aten::view") Sizes(ops[i], index, "size");
      if (name == "aten::reshape") Sizes(ops[i], index, "shape");
    }
    return std::move(edits_);
  }

 private:
  /// Kept coordinates among [first, first + count) of a value's axis.
  int64_t Kept(ValueId value, size_t axis, int64_t first, int64_t count) const {
    const auto& units = space_.values()[static_cast<size_t>(value)].unit[axis];
    if (units.empty()) return count;
    int64_t kept = 0;
    for (int64_t i = first; i < first + count; ++i) {
      const int32_t unit = units[static_cast<size_t>(i)];
      kept += unit < 0 || mask_[static_cast<size_t>(unit)];
    }
    return kept;
  }

  void Add(const Op& op, int32_t index, const char* argument, std::vector<int64_t> from,
           std::vector<int64_t> to, bool is_list) {
    if (from != to)
      edits_.push_back(
          {op.name, op.target(), argument, index, std::move(from), std::move(to), is_list});
  }

  void Groups(const Op& op, int32_t index) {  // depthwise: as many groups as input channels
    const ValueId input = op.ValueArg("input");
    const int64_t groups = op.Constant("groups").toInt();
    const auto& shape = space_.values()[static_cast<size_t>(input)];
    if (groups > 1 && groups == shape.sizes[1])
      Add(op, index, "groups", {groups}, {Kept(input, 1, 0, groups)}, false);
  }

  void Pads(const Op& op, int32_t index) {
    const auto from = op.Constant("pad").toIntVector();
    auto to = from;
    const ValueId output = op.outputs.front();
    const auto& shape = space_.values()[static_cast<size_t>(output)];
    for (size_t i = 0; i < from.size() / 2; ++i) {
      const size_t axis = shape.sizes.size() - 1 - i;
      if (shape.unit[axis].empty()) continue;
      to[2 * i] = Kept(output, axis, 0, from[2 * i]);
      to[2 * i + 1] = Kept(output, axis, shape.sizes[axis] - from[2 * i + 1], from[2 * i + 1]);
    }
    Add(op, index, "pad", from, to, true);
  }

  void Sizes(const Op& op, int32_t index, const char* argument) {
    const auto from = op.Constant(argument).toIntVector();
    auto to = from;
    const ValueId output = op.outputs.front();
    for (size_t axis = 0; axis < from.size(); ++axis)
      if (from[axis] >= 0) to[axis] = Kept(output, axis, 0, from[axis]);
    Add(op, index, argument, from, to, true);
  }

  const Space& space_;
  const std::vector<uint8_t>& mask_;
  std::vector<LiteralEdit> edits_;
};

c10::IValue EditValue(const LiteralEdit& edit) {
  return edit.is_list ? c10::IValue(edit.to) : c10::IValue(edit.to.front());
}

}  // namespace

Plan MakePlan(const Space& space, const Selection& selection) {
  CheckSelection(space, selection);
  const std::vector<uint8_t> mask = UnitMask(space, selection);
  Plan plan;
  plan.source_name = space.network().name;
  FillKept(space, mask, plan);
  for (size_t g = 0; g < selection.size(); ++g)
    plan.groups.push_back({space.groups()[g].name, space.groups()[g].units, selection[g]});
  plan.edits = LiteralEditor(space, mask).Run();
  return plan;
}

Tensor SliceTensor(const Tensor& tensor, const std::vector<KeptAxis>& axes) {
  Tensor sliced = tensor.detach();
  // Per-block lists refer to blocks of the uncut axis 0, so they are gathered before it.
  std::vector<const KeptAxis*> order;
  for (const KeptAxis& axis : axes) order.push_back(&axis);
  std::stable_sort(order.begin(), order.end(), [](const KeptAxis* a, const KeptAxis* b) {
    return a->kept.size() > b->kept.size();
  });
  for (const KeptAxis* axis : order) {
    if (axis->kept.size() == 1) {
      sliced =
          sliced.index_select(axis->axis, at::tensor(axis->kept[0], at::kLong).to(tensor.device()));
      continue;
    }
    std::vector<Tensor> blocks = sliced.chunk(static_cast<int64_t>(axis->kept.size()), 0);
    for (size_t b = 0; b < blocks.size(); ++b)
      blocks[b] = blocks[b].index_select(axis->axis,
                                         at::tensor(axis->kept[b], at::kLong).to(tensor.device()));
    sliced = at::cat(blocks, 0);
  }
  return axes.empty() ? sliced.clone() : sliced.contiguous(tensor.suggest_memory_format());
}

ParameterStore SliceStore(const ParameterStore& store, const Plan& plan) {
  for (const auto& [name, axes] : plan.kept) {
    if (!store.Has(name))
      throw Error(ErrorKind::kModel, Str("the plan cuts '", name, "', which this network lacks"),
                  SuggestName(name, store.names()));
    const Tensor& tensor = store.Get(name);
    for (const KeptAxis& axis : axes) {
      const bool in_range = axis.axis >= 0 && axis.axis < tensor.dim();
      for (const auto& list : axis.kept)
        if (!in_range || list.empty() || list.front() < 0 || list.back() >= tensor.size(axis.axis))
          throw Error(ErrorKind::kModel,
                      Str("the plan keeps indices outside axis ", axis.axis, " of '", name,
                          "', which is ", tensor.sizes()),
                      "is this the plan of another network?");
    }
  }
  ParameterStore sliced = store;
  for (const std::string& name : store.CanonicalNames()) {
    const auto found = plan.kept.find(name);
    const Tensor& tensor = store.Get(name);
    sliced.Set(name, found == plan.kept.end() ? tensor.detach().clone()
                                              : SliceTensor(tensor, found->second));
  }
  return sliced;
}

std::vector<ArgEdit> ExecutorEdits(const Graph& graph, const Plan& plan) {
  std::vector<ArgEdit> edits;
  for (const LiteralEdit& edit : plan.edits) {
    const bool known = edit.op_index >= 0 &&
                       edit.op_index < static_cast<int32_t>(graph.ops.size()) &&
                       graph.ops[static_cast<size_t>(edit.op_index)].name == edit.node;
    const auto named = std::find_if(graph.ops.begin(), graph.ops.end(),
                                    [&](const Op& op) { return op.name == edit.node; });
    if (!known && named == graph.ops.end())
      throw Error(ErrorKind::kModel, Str("the plan edits node '", edit.node, "', which is absent"));
    const auto index = known ? edit.op_index : static_cast<int32_t>(named - graph.ops.begin());
    const int arg = graph.ops[static_cast<size_t>(index)].ArgIndex(edit.argument);
    if (arg < 0)
      throw Error(ErrorKind::kModel,
                  Str("node '", edit.node, "' has no argument '", edit.argument, "'"));
    edits.push_back({index, arg, EditValue(edit)});
  }
  return edits;
}

Network Cut(const Network& network, const Plan& plan) {
  Network pruned = network;
  pruned.store = SliceStore(network.store, plan);
  for (const ArgEdit& edit : ExecutorEdits(network.graph, plan))
    pruned.graph.ops[static_cast<size_t>(edit.op)].args[static_cast<size_t>(edit.arg)] = edit.value;
  return pruned;
}

}  // namespace espalier

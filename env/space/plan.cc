#include "env/space/plan.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <unordered_map>

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

std::vector<uint8_t> EffectiveMask(const Space& space, const std::vector<uint8_t>& mask) {
  std::vector<uint8_t> effective = mask;
  for (size_t unit = 0; unit < mask.size(); ++unit)
    if (const int32_t parent = space.parent_of_unit(static_cast<int64_t>(unit)); parent >= 0)
      effective[unit] = mask[unit] && mask[static_cast<size_t>(parent)];
  return effective;
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
  struct Removal {
    int64_t axis, blocks;
    std::vector<uint8_t> gone;  // by coordinate
  };
  std::unordered_map<std::string, std::vector<Removal>> removals;  // by parameter
  for (size_t g = 0; g < space.groups().size(); ++g)
    for (const Member& member : space.groups()[g].members) {
      const uint8_t* kept = mask.data() + space.unit_offset(g) + member.first_unit;
      if (std::find(kept, kept + member.units(), 0) == kept + member.units()) continue;
      auto& axes = removals[member.parameter];
      auto axis = std::find_if(axes.begin(), axes.end(),
                               [&](const Removal& known) { return known.axis == member.axis; });
      if (axis == axes.end()) {
        const int64_t size = space.network().store.Get(member.parameter).size(member.axis);
        axis = axes.insert(axis, {member.axis, member.blocks,
                                  std::vector<uint8_t>(static_cast<size_t>(size * member.blocks))});
      }
      const int64_t* index = member.indices.data();
      for (int64_t u = 0; u < member.units(); ++u)
        for (int64_t i = 0; i < member.per_unit; ++i)
          axis->gone[static_cast<size_t>(*index++)] |= !kept[u];
    }
  for (auto& [parameter, axes] : removals) {
    std::sort(axes.begin(), axes.end(),
              [](const Removal& a, const Removal& b) { return a.axis < b.axis; });
    for (const Removal& axis : axes) {
      KeptAxis kept{axis.axis, std::vector<std::vector<int64_t>>(static_cast<size_t>(axis.blocks))};
      const size_t size = axis.gone.size() / kept.kept.size();
      const uint8_t* gone = axis.gone.data();
      for (auto& list : kept.kept) {
        list.resize(size);
        size_t count = 0;  // no branch: which go is as good as random
        for (size_t i = 0; i < size; ++i) {
          list[count] = static_cast<int64_t>(i);
          count += !*gone++;
        }
        list.resize(count);
      }
      for (const auto& list : kept.kept)
        ESPALIER_CHECK(!list.empty() && list.size() == kept.kept.front().size(), parameter,
                       " axis ", axis.axis, ": blocks keep unequal counts, or nothing");
      plan.kept[parameter].push_back(std::move(kept));
    }
  }
}

/// The new argument; entries that are computed stay as `current` has them.
Arg EditValue(const LiteralEdit& edit, const Arg& current) {
  if (!edit.is_list) return c10::IValue(edit.to.front());
  const auto* computed = std::get_if<ScalarList>(&current);
  if (computed == nullptr) return c10::IValue(edit.to);
  if (computed->items.size() != edit.to.size())
    throw Error(ErrorKind::kModel,
                Str("the plan edits '", edit.argument, "' of node '", edit.node, "', which has ",
                    computed->items.size(), " entries, not ", edit.to.size()));
  ScalarList list = *computed;
  for (size_t i = 0; i < edit.to.size(); ++i)
    if (edit.to[i] != kComputed) list.items[i] = edit.to[i];
  return list;
}

/// Entries of an index buffer in the numbering of what is kept.
Tensor Renumber(const Tensor& entries, const std::vector<int64_t>& kept) {
  Tensor renumbered = entries.to(at::kLong).contiguous().clone();
  int64_t* data = renumbered.mutable_data_ptr<int64_t>();
  for (int64_t i = 0; i < renumbered.numel(); ++i) {
    const auto found = std::lower_bound(kept.begin(), kept.end(), data[i]);
    if (found == kept.end() || *found != data[i])
      throw Error(ErrorKind::kModel,
                  Str("the plan removes coordinate ", data[i], ", which an index still names"));
    data[i] = found - kept.begin();
  }
  return renumbered.to(entries.options());
}

}  // namespace

Plan MakePlan(const Space& space, const Selection& selection) {
  CheckSelection(space, selection);
  const std::vector<uint8_t> mask = UnitMask(space, selection);
  Plan plan;
  plan.source_name = space.network().name;
  const std::vector<uint8_t> effective = EffectiveMask(space, mask);
  FillKept(space, effective, plan);
  for (const Numbering& numbering : space.numberings()) {
    const auto& units = space.values()[static_cast<size_t>(numbering.value)]
                            .unit[static_cast<size_t>(numbering.axis)];
    std::vector<int64_t> kept;
    for (size_t i = 0; i < units.size(); ++i)
      if (units[i] < 0 || effective[static_cast<size_t>(units[i])])
        kept.push_back(static_cast<int64_t>(i));
    if (kept.size() < units.size()) plan.renumbered[numbering.buffer] = std::move(kept);
  }
  for (size_t g = 0; g < selection.size(); ++g)
    plan.groups.push_back({space.groups()[g].name, space.groups()[g].units, selection[g]});
  plan.edits = FollowLiterals(space, mask);
  return plan;
}

namespace {

/// What is kept of a contiguous tensor on the CPU, copied in one pass over all axes.
class Gatherer {
 public:
  Gatherer(const Tensor& tensor, const std::vector<KeptAxis>& axes)
      : rows_(tensor.size(0)), kept_(static_cast<size_t>(tensor.dim())) {
    std::vector<int64_t> sizes = tensor.sizes().vec();
    for (const KeptAxis& axis : axes) {
      const auto number = static_cast<size_t>(axis.axis);
      kept_[number] = &axis;
      last_ = std::max(last_, number);
      sizes[number] = static_cast<int64_t>(axis.kept.front().size());
    }
    for (int64_t axis = 0; axis < tensor.dim(); ++axis)
      strides_.push_back(static_cast<size_t>(tensor.stride(axis) * tensor.element_size()));
    sizes_ = tensor.sizes();
    result_ = at::empty(sizes, tensor.options());
    to_ = static_cast<char*>(result_.mutable_data_ptr());
    Copy(static_cast<const char*>(tensor.const_data_ptr()), 0, 0);
  }
  const Tensor& result() const { return result_; }

 private:
  void Copy(const char* from, size_t axis, int64_t row) {
    const KeptAxis* kept = kept_[axis];
    if (kept == nullptr) {
      for (int64_t i = 0; i < sizes_[axis]; ++i)
        Copy(from + static_cast<size_t>(i) * strides_[axis], axis + 1, axis == 0 ? i : row);
      return;
    }
    // With several lists, each is that of a block of rows.
    const auto blocks = static_cast<int64_t>(kept->kept.size());
    const std::vector<int64_t>& list = kept->kept[static_cast<size_t>(row * blocks / rows_)];
    if (axis == last_) return CopyLast(from, list);
    for (const int64_t i : list)
      Copy(from + static_cast<size_t>(i) * strides_[axis], axis + 1, axis == 0 ? i : row);
  }

  void CopyLast(const char* from, const std::vector<int64_t>& list) {
    const size_t bytes = strides_[last_];
    if (bytes == 4) return CopyElements<uint32_t>(from, list);
    if (bytes == 2) return CopyElements<uint16_t>(from, list);
    for (const int64_t index : list) {
      std::memcpy(to_, from + static_cast<size_t>(index) * bytes, bytes);
      to_ += bytes;
    }
  }

  template <typename Element>
  void CopyElements(const char* from, const std::vector<int64_t>& list) {
    const auto* source = reinterpret_cast<const Element*>(from);
    auto* target = reinterpret_cast<Element*>(to_);
    for (const int64_t index : list) *target++ = source[index];
    to_ = reinterpret_cast<char*>(target);
  }

  const int64_t rows_;
  at::IntArrayRef sizes_;
  std::vector<size_t> strides_;        // in bytes
  std::vector<const KeptAxis*> kept_;  // by axis; null = all of it
  size_t last_ = 0;                    // the last axis that is cut
  Tensor result_;
  char* to_ = nullptr;
};

}  // namespace

Tensor SliceTensor(const Tensor& tensor, const std::vector<KeptAxis>& axes) {
  Tensor sliced = tensor.detach();
  if (axes.empty()) return sliced.clone();
  if (sliced.is_cpu() && sliced.is_contiguous()) return Gatherer(sliced, axes).result();
  // Per-block lists refer to blocks of the uncut axis 0, so they are gathered before it.
  std::vector<const KeptAxis*> order;
  for (const KeptAxis& axis : axes) order.push_back(&axis);
  std::stable_sort(order.begin(), order.end(), [](const KeptAxis* a, const KeptAxis* b) {
    return a->kept.size() > b->kept.size();
  });
  for (const KeptAxis* axis : order) {
    std::vector<Tensor> blocks = sliced.chunk(static_cast<int64_t>(axis->kept.size()), 0);
    for (size_t b = 0; b < blocks.size(); ++b)
      blocks[b] = blocks[b].index_select(axis->axis,
                                         at::tensor(axis->kept[b], at::kLong).to(tensor.device()));
    sliced = blocks.size() == 1 ? blocks[0] : at::cat(blocks, 0);
  }
  return sliced.contiguous(tensor.suggest_memory_format());
}

ParameterStore SliceStore(const ParameterStore& store, const Plan& plan) {
  for (const auto& [name, axes] : plan.kept) {
    if (!store.Has(name))
      throw Error(ErrorKind::kModel, Str("the plan cuts '", name, "', which this network lacks"),
                  SuggestName(name, store.names()));
    const Tensor& tensor = store.Get(name);
    for (const KeptAxis& axis : axes) {
      const bool in_range = axis.axis >= 0 && axis.axis < tensor.dim();
      if (in_range && tensor.size(0) % static_cast<int64_t>(axis.kept.size()) != 0)
        throw Error(ErrorKind::kModel,
                    Str("the plan cuts axis ", axis.axis, " of '", name, "' in ", axis.kept.size(),
                        " blocks of axis 0, which has ", tensor.size(0)),
                    "is this the plan of another network?");
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
    Tensor cut =
        found == plan.kept.end() ? tensor.detach().clone() : SliceTensor(tensor, found->second);
    if (const auto numbers = plan.renumbered.find(name); numbers != plan.renumbered.end())
      cut = Renumber(cut, numbers->second);
    sliced.Set(name, cut);
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
    edits.push_back(
        {index, arg,
         EditValue(edit, graph.ops[static_cast<size_t>(index)].args[static_cast<size_t>(arg)])});
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

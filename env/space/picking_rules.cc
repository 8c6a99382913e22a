#include <ATen/ATen.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "env/space/label_rules.h"

// Parts of a value: what they hold of a prunable axis follows the cut.

namespace espalier {
namespace {

/// The int argument as a number, computed ones included.
std::optional<int64_t> IntArgument(const Call& c, const char* argument) {
  const Arg& arg = c.op.args[static_cast<size_t>(c.op.ArgIndex(argument))];
  if (const auto* constant = std::get_if<c10::IValue>(&arg))
    return constant->isInt() ? std::optional(constant->toInt()) : std::nullopt;
  if (const auto* value = std::get_if<ValueId>(&arg); value && *value != kNoValue)
    return c.t.MetaOf(*value).scalar;
  return std::nullopt;
}

/// Replaces an op by index_select over a stored list: what it picks can then be cut one by one.
void RewriteAsGather(const Call& c, ValueId input, int64_t dim, const Tensor& index) {
  const ValueId stored =
      c.t.AddBuffer((c.op.module_path.empty() ? c.op.name : c.op.module_path) + ".gather_index",
                    index.to(at::kLong).contiguous());
  Op& op = c.Mutable();
  op.handle = FindOperator("aten::index_select", "");
  op.args = {input, c10::IValue(dim), stored};
  ApplyLabelRule(c.t, c.index);
}

/// slice, narrow, select: along a prunable axis the bounds follow the cut.
void Slice(const Call& c) {
  const ValueId input = c.op.ValueArg("self");
  const Tensor labels = FullLabels(c, input);
  if (!labels.defined()) return;
  const int64_t rank = c.rank(input), dim = c.Dim("dim", rank);
  const Tensor compressed = Compress(labels);
  const bool cut = compressed.size(dim) > 1;
  const bool is_slice = c.name() == "aten::slice";
  if (cut && is_slice) {
    const auto step = IntArgument(c, "step");
    if (step && *step > 1) {
      const auto start = IntArgument(c, "start"), end = IntArgument(c, "end");
      const Tensor all = at::arange(c.t.sizes(input)[static_cast<size_t>(dim)], at::kLong);
      return RewriteAsGather(c, input, dim,
                             at::slice(all, 0, start.value_or(0),
                                       end.value_or(std::numeric_limits<int64_t>::max()), *step));
    }
  }
  Move(c);
  if (!cut || !c.ids(c.out()).defined()) return;
  const Tensor picked = c.ids(c.out());
  if (c.name() == "aten::select" && VaryingAxes(picked).empty())
    c.t.PinAll(picked, Str(c.where(), ": picks a single unit"));
}

/// chunk and split count in equal parts; the parts' sizes are written out so that each can follow.
void Split(const Call& c) {
  const ValueId input = c.op.ValueArg("self");
  const Tensor labels = FullLabels(c, input);
  if (!labels.defined() && !c.t.IsMovedStored(c.out())) return;
  const int64_t dim = c.Dim("dim", c.rank(input));
  const bool cut = !labels.defined() || Compress(labels).size(dim) > 1;
  if (cut && c.name() != "aten::split_with_sizes") {
    std::vector<int64_t> sizes;
    for (const ValueId output : c.op.outputs)
      sizes.push_back(c.t.sizes(output)[static_cast<size_t>(dim)]);
    Op& op = c.Mutable();
    op.handle = FindOperator("aten::split_with_sizes", "");
    op.args = {input, c10::IValue(sizes), c10::IValue(dim)};
  }
  if (labels.defined()) Move(c);
}

void Unbind(const Call& c) {
  Move(c);
  for (const ValueId output : c.op.outputs)
    if (c.ids(output).defined() && VaryingAxes(c.ids(output)).empty() &&
        VaryingAxes(c.ids(c.op.ValueArg("self"))).size() == 1)
      c.t.PinAll(c.ids(output), Str(c.where(), ": picks a single unit"));
}

void Roll(const Call& c) {
  const ValueId input = c.op.ValueArg("self");
  const Tensor& ids = c.ids(input);
  if (!ids.defined()) return;
  const auto shifts = c.op.Constant("shifts").toIntVector();
  const auto dims = c.op.Constant("dims").toIntVector();
  if (dims.size() == 1) {
    const int64_t dim = dims[0] < 0 ? dims[0] + c.rank(input) : dims[0];
    if (ids.size(dim) > 1)
      return RewriteAsGather(c, input, dim,
                             at::roll(at::arange(ids.size(dim), at::kLong), shifts, {0}));
  }
  for (const int64_t dim : dims)
    if (ids.size(dim < 0 ? dim + c.rank(input) : dim) > 1)
      return PinInputs(c, Str(c.where(), ": rolls a prunable axis together with others"));
  Move(c);
}

/// index_select with a stored list: entries count in the coordinates of the value's axis, and go
/// with what they pick.
void Gather(const Call& c, ValueId input, int64_t dim, ValueId index) {
  const Tensor labels = FullLabels(c, input);
  if (!labels.defined()) return;
  const Tensor compressed = Compress(labels);
  if (compressed.size(dim) == 1) {
    c.t.Set(c.out(), compressed);
    return;
  }
  if (!c.t.IsStored(index) || c.t.sizes(index).size() != 1)
    return c.t.PinAll(compressed,
                      Str(c.where(), ": picks along a prunable axis by computed index"));
  const std::string& buffer = c.t.StoredName(index);
  const Tensor entries = c.t.network().store.Get(buffer).to(at::kLong);
  const Tensor picked = compressed.index_select(dim, entries);
  c.t.Set(c.out(), picked);
  Tie(c, c.t.AxisIds(c.out(), dim, c.where()),
      c.t.StoredAxis(index, 0, MemberRole::kChannel, false, c.op.module_path));
  c.t.AddNumbering(buffer, input, dim);
}

void IndexSelect(const Call& c) {
  const ValueId input = c.op.ValueArg("self");
  const int64_t dim = c.Dim("dim", c.rank(input));
  if (!c.ids(input).defined() && c.t.IsStored(input) && c.rank(input) == 2 &&
      at::isFloatingType(c.t.MetaOf(input).dtype))  // rows of a free table
    return SetFresh(c, 1 - dim,
                    c.t.WeightIds(input, 1 - dim, MemberRole::kChannel, false, c.op.module_path));
  Gather(c, input, dim, c.op.ValueArg("index"));
}

/// Matrices of a stored stack, one for every entry of the index: a weight still, whose last axes
/// are the stack's.
bool PicksSlices(const Call& c, ValueId input) {
  const auto& indices = std::get<ValueList>(c.op.args[1]).ids;
  return (c.t.IsStored(input) || c.t.IsMovedStored(input)) && c.rank(input) == 3 &&
         indices.size() == 1 && indices[0] != kNoValue && c.out_rank() >= 3 &&
         c.t.MetaOf(indices[0]).dtype != at::kBool && HoldsNumbers(c.t.MetaOf(input).dtype);
}

/// index.Tensor(self, indices): off the prunable axes an index only moves data around; on one of
/// them it has to be a stored list. A free table is cut along the axes that are not indexed.
void Index(const Call& c) {
  const ValueId input = c.op.ValueArg("self");
  const bool is_table = !c.ids(input).defined();
  if (is_table && PicksSlices(c, input)) return c.t.SetMoved(c.out(), input, c.index, 0);
  Tensor labels = c.t.Usable(input, c.op.module_path);
  if (!labels.defined()) return;
  labels = labels.expand(c.t.sizes(input));
  const auto& indices = std::get<ValueList>(c.op.args[1]).ids;
  std::vector<int64_t> indexed;
  for (size_t i = 0; i < indices.size(); ++i) {
    if (indices[i] == kNoValue) continue;
    indexed.push_back(static_cast<int64_t>(i));
    if (c.t.MetaOf(indices[i]).dtype == at::kBool) return Opaque(c);
  }
  if (is_table) {
    for (const int64_t axis : indexed) Together(c, labels, axis);
    labels = c.t.Canonical(labels).expand(c.t.sizes(input));
  }
  const Tensor compressed = Compress(labels);
  bool on_units = false;
  for (const int64_t axis : indexed) on_units = on_units || compressed.size(axis) > 1;
  if (on_units) {
    const ValueId index = indices[static_cast<size_t>(indexed[0])];
    if (indexed.size() == 1 && c.rank(index) == 1) return Gather(c, input, indexed[0], index);
    return c.t.PinAll(compressed, Str(c.where(), ": picks along a prunable axis"));
  }
  c10::List<std::optional<Tensor>> list;  // any index gives the same labels
  for (const ValueId index : indices)
    list.push_back(index == kNoValue
                       ? std::optional<Tensor>()
                       : std::optional<Tensor>(at::zeros(c.t.sizes(index), at::kLong)));
  SetMoved(c, c.out(), at::index(labels, list));
}

}  // namespace

void AddPickingRules(LabelRules& rules) {
  AddRules(rules, Slice, "slice narrow select");
  AddRules(rules, Split, "chunk split split_with_sizes tensor_split");
  AddRules(rules, Unbind, "unbind");
  AddRules(rules, Roll, "roll");
  AddRules(rules, IndexSelect, "index_select");
  AddRules(rules, Index, "index");
}

}  // namespace espalier

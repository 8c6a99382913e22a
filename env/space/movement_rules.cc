#include <ATen/ATen.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "env/space/label_rules.h"

// Data movement: the operator runs itself, with its own arguments, on the labels.

namespace espalier {
namespace {

/// Labels of the moved value at full size. A stored tensor that is moved before it is used is only
/// noted: whether it is a weight or an operand shows where it is read.
Tensor FullLabels(const Call& c, ValueId input) {
  if (c.ids(input).defined()) return c.ids(input).expand(c.t.sizes(input));
  if (c.t.IsStored(input) || c.t.IsMovedStored(input))
    for (size_t i = 0; i < c.op.outputs.size(); ++i)
      c.t.SetMoved(c.op.outputs[i], input, c.index, i);
  return {};
}

void SetMoved(const Call& c, ValueId output, const Tensor& moved) {
  c.t.Set(output, Compress(moved));
}

/// An axis count that is computed at run time cannot follow a cut, but one of them can be left to
/// the operator (-1) when it is given the others.
void FollowComputedSize(const Call& c, int arg, const Tensor& after) {
  const auto* list = std::get_if<ScalarList>(&c.op.args[static_cast<size_t>(arg)]);
  if (list == nullptr || static_cast<int64_t>(list->items.size()) != after.dim()) return;
  std::vector<int64_t> computed;
  for (const int64_t axis : VaryingAxes(after))
    if (std::holds_alternative<ValueId>(list->items[static_cast<size_t>(axis)]))
      computed.push_back(axis);
  const bool open = std::ranges::any_of(list->items, [](const auto& item) {
    return std::holds_alternative<int64_t>(item) && std::get<int64_t>(item) == -1;
  });
  if (computed.size() == 1 && !open) {
    auto& items = std::get<ScalarList>(c.Mutable().args[static_cast<size_t>(arg)]).items;
    items[static_cast<size_t>(computed.front())] = int64_t{-1};
    return;
  }
  for (const int64_t axis : computed)
    PinSlabs(c, after, {axis}, Str(c.where(), ": the size of that axis is computed"));
}

/// view, reshape, flatten and the like: labels are strided differently from the data, and sizes may
/// be computed, so the recorded shape is what they are brought to.
void Reshape(const Call& c) {
  const ValueId input = std::get<ValueId>(c.op.args[0]);
  const Tensor labels = FullLabels(c, input);
  if (!labels.defined()) return;
  const Tensor before = c.ids(input);
  const Tensor after = Compress(labels.reshape(c.out_sizes()));
  for (const char* argument : {"size", "shape", "sizes"})
    if (const int arg = c.op.ArgIndex(argument); arg >= 0) FollowComputedSize(c, arg, after);
  // Two axes that become one keep their order. With the axis that steps more inside, what is kept
  // has to be the same in each of its blocks.
  const std::vector<int64_t> from = VaryingAxes(before), to = VaryingAxes(after);
  if (from.size() > to.size() && c.t.InnerAxis(before) != from.back())
    UnionAlong(c, before, from.back());
  c.t.Set(c.out(), after);
}

/// Any other movement whose constant arguments mean the same to labels as to data.
void Move(const Call& c) {
  const ValueId input = std::get<ValueId>(c.op.args[0]);
  const Tensor labels = FullLabels(c, input);
  if (!labels.defined()) return;
  const std::vector<Tensor> results = RunMovement(c.op, labels, c.t.meta());
  if (results.empty()) return Opaque(c);
  for (size_t i = 0; i < results.size(); ++i) SetMoved(c, c.op.outputs[i], results[i]);
}

/// A factor is all that pixel_shuffle knows: the places of a channel go together.
void PixelShuffle(const Call& c) {
  Move(c);
  Tensor ids = c.ids(c.out());
  if (!ids.defined()) return;
  for (const int64_t axis : {c.out_rank() - 2, c.out_rank() - 1}) {
    UnionAlong(c, ids, axis);
    ids = ids.narrow(axis, 0, 1);
  }
  c.t.Set(c.out(), ids);
}

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
  Gather(c, input, c.Dim("dim", c.rank(input)), c.op.ValueArg("index"));
}

/// index.Tensor(self, indices): off the prunable axes an index only moves data around; on one of
/// them it has to be a stored list. A free table is cut along the axes that are not indexed.
void Index(const Call& c) {
  const ValueId input = c.op.ValueArg("self");
  const bool is_table = !c.ids(input).defined();
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
    for (const int64_t axis : indexed) UnionAlong(c, labels, axis);
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

/// expand, to sizes some of which may be computed.
void Expand(const Call& c) {
  const Tensor labels = FullLabels(c, std::get<ValueId>(c.op.args[0]));
  if (labels.defined()) SetMoved(c, c.out(), labels.expand(c.out_sizes()));
}

/// im2col: [B, C, H, W] -> [B, C k k, places]. The kernel knows only floating types.
void Unfold(const Call& c) {
  const ValueId input = c.op.ValueArg("self");
  const Tensor labels = FullLabels(c, input);
  if (!labels.defined()) return;
  std::vector<c10::IValue> stack = {labels.to(at::kDouble)};
  for (size_t a = 1; a < c.op.args.size(); ++a)
    stack.push_back(std::get<c10::IValue>(c.op.args[a]));
  c.op.handle.callBoxed(stack);
  SetMoved(c, c.out(), stack.front().toTensor().to(at::kLong));
}

/// cat and stack: the operands' labels side by side.
void Join(const Call& c) {
  const auto& values = std::get<ValueList>(c.op.args[0]).ids;
  bool moved = AnyLabelled(c);
  for (const ValueId value : values) moved = moved || c.t.IsMovedStored(value);
  const bool bias = std::ranges::all_of(values, [&](ValueId value) {  // made of several
    return c.t.IsStored(value) && c.rank(value) == 1;
  });
  if (!moved && !bias) return;
  const bool is_stack = c.name() == "aten::stack";
  const int64_t rank = c.out_rank(), dim = c.Dim("dim", rank);
  std::vector<int64_t> shape(static_cast<size_t>(rank), 1);
  std::vector<Tensor> parts;
  for (const ValueId value : values) {  // the common shape of all operands off the joined axis
    Tensor ids = c.ids(value);
    if (!ids.defined()) ids = c.t.Usable(value, c.op.module_path);
    if (!ids.defined())
      ids = at::full(std::vector<int64_t>(c.t.sizes(value).size(), 1), -1, at::kLong);
    if (is_stack) ids = ids.unsqueeze(dim);
    parts.push_back(ids);
    for (int64_t d = 0; d < rank; ++d)
      if (d != dim)
        shape[static_cast<size_t>(d)] =
            std::max(shape[static_cast<size_t>(d)], parts.back().size(d));
  }
  for (size_t i = 0; i < parts.size(); ++i) {
    shape[static_cast<size_t>(dim)] = is_stack ? 1 : c.t.sizes(values[i])[static_cast<size_t>(dim)];
    parts[i] = parts[i].expand(shape);
  }
  const Tensor joined = Compress(at::cat(parts, dim));
  // Parts may name the same class by different coordinates.
  c.t.Set(c.out(), VaryingAxes(joined).size() > 1 ? c.t.Canonical(joined) : joined);
}

/// Zero padding. Padding along the units' own axis is made of units too (a shortcut padded with
/// zero channels): it gets coordinates of its own, which the addition that follows couples.
void Pad(const Call& c) {
  const ValueId input = c.op.ValueArg("self");
  if (!c.ids(input).defined()) return;
  const std::vector<int64_t> pads = c.op.Constant("pad").toIntVector();
  const int mode = c.op.ArgIndex("mode");
  Tensor ids = c.ids(input);
  bool on_units = false;
  for (size_t i = 0; i < pads.size() / 2; ++i) {
    const int64_t axis = c.out_rank() - 1 - static_cast<int64_t>(i);
    on_units = on_units || (ids.size(axis) > 1 && (pads[2 * i] != 0 || pads[2 * i + 1] != 0));
  }
  if (!on_units) return c.t.Set(c.out(), ids);
  const c10::IValue* value = c.Constant("value");
  const bool zeros = value && (value->isNone() || value->toScalar().toDouble() == 0);
  if (!value || (mode >= 0 && c.op.Constant("mode").toStringRef() != "constant")) return Opaque(c);
  for (size_t i = 0; i < pads.size() / 2; ++i) {
    const int64_t axis = c.out_rank() - 1 - static_cast<int64_t>(i);
    const int64_t left = pads[2 * i], right = pads[2 * i + 1];
    if ((left == 0 && right == 0) || ids.size(axis) == 1) continue;  // spatial filler stays implied
    if (left < 0 || right < 0) return Opaque(c);
    // Zeros may follow what they meet; other numbers are data that cannot be cut.
    std::vector<int64_t> padding_ids(static_cast<size_t>(left + right), -1);
    if (zeros) padding_ids = LabelTracer::Ids(c.t.PhantomAxis(left + right, c.op.module_path));
    const Tensor padding = LabelTracer::Along(c.out_rank(), axis, padding_ids);
    std::vector<int64_t> shape = ids.sizes().vec();
    shape[static_cast<size_t>(axis)] = left + right;
    const Tensor wide = padding.expand(shape);
    ids = at::cat({wide.narrow(axis, 0, left), ids, wide.narrow(axis, left, right)}, axis);
  }
  c.t.Set(c.out(), ids);
}

/// zeros, ones, full of a fixed shape that a recurrent layer starts from or that is joined to
/// units: phantom coordinates, so that their sizes follow what they meet.
void Create(const Call& c) {
  int64_t count = 1;
  for (const int64_t size : c.out_sizes()) count *= size;
  constexpr int64_t kMost = 1 << 20;
  bool wanted = false;
  for (const Op& op : c.t.network().graph.ops)
    for (const Use& use : UsesOf(op)) {
      const std::string& name = op.handle.operator_name().name;
      wanted =
          wanted || (use.value == c.out() && (name == "aten::lstm" || name == "aten::gru" ||
                                              name == "aten::cat" || name == "aten::rnn_tanh"));
    }
  if (!wanted || count > kMost || !at::isFloatingType(c.t.MetaOf(c.out()).dtype)) return;
  const CoordinateAxis& made = c.t.PhantomAxis(count, c.op.module_path);
  c.t.Set(c.out(), at::arange(made.first, made.first + count, at::kLong).view(c.out_sizes()));
}

}  // namespace

void AddMovementRules(LabelRules& rules) {
  const auto add = [&](LabelRule rule, std::initializer_list<const char*> names) {
    for (const char* name : names) rules[Str("aten::", name)] = rule;
  };
  add(Reshape, {"view", "reshape", "flatten", "unflatten", "_unsafe_view", "view_as", "reshape_as",
                "ravel"});
  add(Move, {"permute",
             "transpose",
             "t",
             "squeeze",
             "unsqueeze",
             "movedim",
             "repeat",
             "tile",
             "repeat_interleave",
             "flip",
             "pixel_unshuffle",
             "channel_shuffle",
             "swapaxes",
             "numpy_T",
             "mT",
             "diagonal",
             "unfold",
             "moveaxis",
             "swapdims",
             "fliplr",
             "flipud",
             "rot90"});
  add(PixelShuffle, {"pixel_shuffle"});
  add(Expand, {"expand", "expand_as"});
  add(Unfold, {"im2col"});
  add(Slice, {"slice", "narrow", "select"});
  add(Split, {"chunk", "split", "split_with_sizes", "tensor_split"});
  add(Unbind, {"unbind"});
  add(Roll, {"roll"});
  add(IndexSelect, {"index_select"});
  add(Index, {"index"});
  add(Join, {"cat", "concat", "concatenate", "stack"});
  add(Pad, {"constant_pad_nd", "pad"});
  add(Create, {"zeros", "ones", "full", "new_zeros", "new_ones", "new_full", "zeros_like",
               "ones_like", "empty_like", "full_like"});
}

}  // namespace espalier

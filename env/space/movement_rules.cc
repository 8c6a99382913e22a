#include <ATen/ATen.h>

#include <algorithm>
#include <set>
#include <string>

#include "env/graph/schema_writes.h"
#include "env/space/label_rules.h"

// Data movement: the operator runs itself, with its own arguments, on the labels.

namespace espalier {
namespace {

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
    Together(c, before, from.back());
  c.t.Set(c.out(), after);
}

bool RunsOverSpace(const Call& c) {
  const Tensor& ids = c.ids(std::get<ValueId>(c.op.args[0]));
  return ids.defined() && (ids.size(-1) > 1 || ids.size(-2) > 1);
}

/// Blocks of places become channels, which go one by one.
void PixelUnshuffle(const Call& c) {
  if (RunsOverSpace(c)) return PinInputs(c, Str(c.where(), ": cut runs over space"));
  Move(c);
}

/// A factor is all that pixel_shuffle knows: the places of a channel go together.
void PixelShuffle(const Call& c) {
  if (RunsOverSpace(c)) return PinInputs(c, Str(c.where(), ": cut runs over space"));
  Move(c);
  Tensor ids = c.ids(c.out());
  if (!ids.defined()) return;
  for (const int64_t axis : {c.out_rank() - 2, c.out_rank() - 1}) ids = Together(c, ids, axis);
  c.t.Set(c.out(), ids);
}

/// expand, to sizes some of which may be computed. One number for all units (a norm over them)
/// takes its size from what it is expanded to, and follows that.
void Expand(const Call& c) {
  const ValueId input = std::get<ValueId>(c.op.args[0]);
  const Tensor labels = FullLabels(c, input);
  const Tensor other = c.name() == "aten::expand_as" ? c.ids(c.op.ValueArg("other")) : Tensor();
  if (labels.defined()) {
    // Numbers for slabs of the other's units, spread over those very units again.
    const auto varying = VaryingAxes(c.ids(input));
    if (other.defined() && c.rank(input) == c.out_rank() && !varying.empty() &&
        c.t.Slabs(other, varying).equal(c.ids(input)))
      return c.t.Set(c.out(), other);
    return SetMoved(c, c.out(), labels.expand(c.out_sizes()));
  }
  if (!other.defined() || VaryingAxes(other).size() != 1 || c.t.IsFree(input)) return;
  const int64_t axis = VaryingAxes(other).front(), own = axis - (c.out_rank() - c.rank(input));
  if (own >= 0 && c.t.sizes(input)[static_cast<size_t>(own)] != 1) return;
  const auto& spread = c.t.PhantomAxis(c.out_sizes()[static_cast<size_t>(axis)], c.op.module_path);
  SetFresh(c, axis, LabelTracer::Ids(spread));
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

/// col2im: [B, C k k, places] -> [B, C, H, W]; the places of a channel go together.
void Fold(const Call& c) {
  const ValueId input = c.op.ValueArg("self");
  if (!c.ids(input).defined()) return;
  const std::vector<int64_t> ids = c.t.AxisIds(input, 1, c.where());
  const int64_t channels = c.out_sizes()[1];
  const size_t places = ids.size() / static_cast<size_t>(channels);
  std::vector<int64_t> kept;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (i % places == 0) kept.push_back(ids[i]);
    c.t.Union(ids[i], kept.back());
  }
  SetFresh(c, 1, kept);
}

/// cat and stack: the operands' labels side by side.
void Join(const Call& c) {
  const auto& values = std::get<ValueList>(c.op.args[0]).ids;
  bool moved = AnyLabelled(c);
  for (const ValueId value : values) moved = moved || c.t.IsMovedStored(value);
  // A bias or a table made of several; what has two axes may be a weight.
  const bool free = c.rank(values.front()) != 2 &&
                    std::ranges::all_of(values, [&](ValueId v) { return c.t.IsFree(v); });
  if (!moved && !free) return;
  const bool is_stack = c.name() == "aten::stack";
  const int64_t rank = c.out_rank(), dim = c.Dim("dim", rank);
  std::vector<int64_t> shape(static_cast<size_t>(rank), 1);
  // Tokens that are learned have units of their own only where the others have.
  const bool tokens = !is_stack && std::ranges::any_of(values, [&](ValueId value) {
    return c.ids(value).defined() && !c.t.IsFree(value);
  }) && std::ranges::none_of(values, [&](ValueId value) {
    return c.ids(value).defined() && !c.t.IsFree(value) && c.ids(value).size(dim) > 1;
  });
  std::vector<Tensor> parts;
  for (const ValueId value : values) {  // the common shape of all operands off the joined axis
    Tensor ids = c.ids(value);
    if (!ids.defined()) ids = c.t.Usable(value, c.op.module_path);
    if (ids.defined() && tokens && c.t.IsFree(value)) ids = Together(c, ids, dim);
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

/// A coordinate of its own for every element of what no tensor holds.
Tensor Phantoms(const Call& c, const std::vector<int64_t>& shape) {
  const int64_t count = c10::multiply_integers(shape);
  const CoordinateAxis& made = c.t.PhantomAxis(count, c.op.module_path);
  return at::arange(made.first, made.first + count, at::kLong).view(shape);
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
    std::vector<int64_t> shape = ids.sizes().vec();
    shape[static_cast<size_t>(axis)] = left + right;
    const int64_t count = c10::multiply_integers(shape);
    // Zeros may follow what they meet, a row of others may go with its head; else it is data that
    // cannot be cut.
    Tensor wide = LabelTracer::Make({-1}, std::vector<int64_t>(shape.size(), 1)).expand(shape);
    if (zeros || count > left + right) wide = Phantoms(c, shape);
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
  static const std::set<std::string> kReaders = {
      "aten::lstm",          "aten::gru",           "aten::rnn_tanh",
      "aten::rnn_relu",      "aten::lstm_cell",     "aten::gru_cell",
      "aten::rnn_tanh_cell", "aten::rnn_relu_cell", "aten::cat"};
  const bool wanted = std::ranges::any_of(c.t.network().graph.ops, [&](const Op& op) {
    return kReaders.contains(op.handle.operator_name().name) &&
           std::ranges::count(UsesOf(op), c.out(), &Use::value) > 0;
  });
  if (!wanted || count > kMost || !at::isFloatingType(c.t.MetaOf(c.out()).dtype)) return;
  c.t.Set(c.out(), Phantoms(c, c.out_sizes()));
}

/// zeros_like, empty_like: as wide as what they are like. What is written into parts of them is
/// not followed.
void CreateLike(const Call& c) {
  const Tensor& ids = c.ids(c.op.ValueArg("self"));
  const bool has_views = std::ranges::any_of(c.t.network().graph.ops, [&](const Op& op) {
    return MayReturnItsArgument(op) && std::ranges::count(UsesOf(op), c.out(), &Use::value) > 0;
  });
  if (!ids.defined() || has_views) return Create(c);
  c.t.Set(c.out(), ids);
}

}  // namespace

void AddMovementRules(LabelRules& rules) {
  AddRules(rules, Reshape, "view reshape flatten unflatten _unsafe_view view_as reshape_as ravel");
  AddRules(rules, Move,
           "permute transpose t squeeze unsqueeze movedim repeat tile repeat_interleave flip "
           "channel_shuffle swapaxes numpy_T mT diagonal unfold moveaxis swapdims fliplr flipud "
           "rot90");
  AddRules(rules, PixelShuffle, "pixel_shuffle");
  AddRules(rules, PixelUnshuffle, "pixel_unshuffle");
  AddRules(rules, Expand, "expand expand_as");
  AddRules(rules, Unfold, "im2col");
  AddRules(rules, Fold, "col2im");
  AddRules(rules, Join, "cat concat concatenate stack");
  AddRules(rules, Pad, "constant_pad_nd pad");
  AddRules(rules, Create, "zeros ones full new_zeros new_ones new_full");
  AddRules(rules, CreateLike, "zeros_like ones_like empty_like full_like");
}

}  // namespace espalier

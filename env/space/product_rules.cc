#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <string>

#include "env/space/label_rules.h"
#include "env/space/stacked_layer.h"

// Products of two values that are computed: what both run along meets where it is summed over.

namespace espalier {
namespace {

bool IsWeight(const Call& c, ValueId value) {
  return !c.ids(value).defined() && (c.t.IsStored(value) || c.t.IsMovedStored(value));
}

/// Union of what meets on a contracted axis; the read is gated on the first operand.
/// a [.., k] and b [.., k] broadcast to one shape, k their last axis, real sizes beside them.
void Contract(const Call& c, const Tensor& a, const Tensor& b) {
  if (a.defined() || b.defined()) UnionElements(c, a, b);
}

bool VariesAlong(const Tensor& ids, int64_t axis) { return ids.defined() && ids.size(axis) > 1; }

/// A product's labels. One unit alone cannot be read out of a product again.
void SetProduct(const Call& c, const Tensor& made) {
  if (!made.defined()) return;
  if (VaryingAxes(made).empty())
    return c.t.PinAll(made, Str(c.where(), ": a single unit for all that it is joined with"));
  c.t.Set(c.out(), made);
}

/// Labels of A @ B, where A is [.., m, k] and B [.., k, n], both of rank c.out_rank().
/// `a_use` is the argument that carries A: it is gated where the contracted axis is prunable.
Tensor Product(const Call& c, int32_t a_use, Tensor a, const std::vector<int64_t>& a_sizes,
               Tensor b, const std::vector<int64_t>& b_sizes, int64_t a_rank) {
  const auto rank = static_cast<int64_t>(a_sizes.size());
  const int64_t m = rank - 2, k = rank - 1;
  // Parts of the contracted axis that have coordinates of their own (tokens that are learned before
  // others) are summed up: what stands across them goes together.
  if (VariesAlong(a, k) && VariesAlong(a, m) && !VariesAlong(b, m) && c.t.InnerAxis(a) == m)
    a = Together(c, a, k);
  else if (VariesAlong(b, m) && VariesAlong(b, k) && !VariesAlong(a, k) && c.t.InnerAxis(b) == k)
    b = Together(c, b, m);
  if (VariesAlong(a, k) || VariesAlong(b, rank - 2)) {
    // Rows of A and columns of B all meet: over them the coupling is the same.
    if (VariesAlong(a, m) && VariesAlong(a, k))
      PinSlabs(c, a, {m}, Str(c.where(), ": rows of a product"));
    if (VariesAlong(b, rank - 1) && VariesAlong(b, rank - 2))
      PinSlabs(c, b, {rank - 1}, Str(c.where(), ": columns of a product"));
    // An operand that is cut along its own axis only brings data that cannot be cut along k.
    const bool a_meets = a.defined() && (VariesAlong(a, k) || !VariesAlong(a, m));
    const bool b_meets = b.defined() && (VariesAlong(b, rank - 2) || !VariesAlong(b, rank - 1));
    const Tensor left = a_meets ? a.unsqueeze(-2) : Tensor();                     // [.., m, 1, k]
    const Tensor right = b_meets ? b.transpose(-1, -2).unsqueeze(-3) : Tensor();  // [.., 1, n, k]
    Contract(c, left, right);
    if (a.defined()) {
      Tensor read = a;
      for (int64_t extra = rank; extra > a_rank; --extra) read = read.squeeze(0);
      c.t.AddRead(c.index, a_use, 0, read);
    }
  }
  std::vector<int64_t> left_sizes = a_sizes, right_sizes = b_sizes;
  left_sizes[static_cast<size_t>(k)] = 1;
  right_sizes[static_cast<size_t>(m)] = 1;
  const Tensor left = Remaining(c, a, {k}), right = Remaining(c, b, {rank - 2});
  return Meet(c, left, left_sizes, right, right_sizes);
}

/// What a free operand of a product can be cut along: what is contracted, and where the other's
/// labels run, too. Its rows (queries that are learned) go together.
Tensor Narrowed(const Call& c, Tensor ids, const Tensor& other, int64_t rows, int64_t contracted) {
  for (int64_t axis = 0; ids.defined() && axis < ids.dim(); ++axis)
    if (axis != contracted && (axis == rows || !VariesAlong(other, axis)))
      ids = Together(c, ids, axis);
  return ids;
}

std::vector<int64_t> Widened(std::vector<int64_t> sizes, int64_t rank) {
  sizes.insert(sizes.begin(), static_cast<size_t>(rank) - sizes.size(), 1);
  return sizes;
}

/// A stored stack of matrices, or matrices that are picked of one: the last two axes of a product.
bool IsStackOfMatrices(const Call& c, ValueId value) {
  const int64_t rank = c.rank(value);
  return IsWeight(c, value) &&
         (rank == 3 || (rank > 3 && c.t.IsPickedStack(value, rank - 2, rank - 1)));
}

/// A stack of weights on either side of a product of matrices.
bool RunStackedMatmul(const Call& c, ValueId a, ValueId b) {
  const bool on_the_right = IsStackOfMatrices(c, b);
  if (!on_the_right && !IsStackOfMatrices(c, a)) return false;
  const ValueId input = on_the_right ? a : b;
  const int64_t rank = c.rank(input), out = c.out_rank();
  if (rank < 2) return false;
  StackedLayer layer{.input = input, .weight = on_the_right ? b : a};
  for (const Use& use : UsesOf(c.op))
    if (use.value == input) layer.argument = use.arg;
  layer.input_stack = rank - 3;  // -1: it has none
  layer.input_in = on_the_right ? rank - 1 : rank - 2;
  layer.stack = c.rank(layer.weight) - 3;
  layer.in = layer.stack + (on_the_right ? 1 : 2);
  layer.out = layer.stack + (on_the_right ? 2 : 1);
  layer.output_stack = out - 3;
  layer.output_out = on_the_right ? out - 1 : out - 2;
  return RunStackedLayer(c, layer);
}

/// What is added to a product, where both have labels, or it is stored.
Tensor Added(const Call& c, const Tensor& made, ValueId added) {
  const int64_t rank = c.out_rank();
  Tensor ids = Align(
      c.t.IsFree(added) && made.defined() ? c.t.Usable(added, c.op.module_path) : c.ids(added),
      rank);
  if (c.t.IsFree(added))
    for (int64_t axis = 0; ids.defined() && axis < rank; ++axis)
      if (!VariesAlong(made, axis)) ids = Together(c, ids, axis);
  return Meet(c, made, c.out_sizes(), ids, Widened(c.t.sizes(added), rank));
}

/// matmul, bmm, mm; baddbmm adds to it.
void Matmul(const Call& c, ValueId a, ValueId b, ValueId added) {
  if (c.rank(a) < 1 || c.rank(b) < 1) return Opaque(c);
  if (IsWeight(c, b) && c.rank(b) == 2 && added == kNoValue && !IsWeight(c, a))
    return Dense(c, a, b, kNoValue, 0);
  if (RunStackedMatmul(c, a, b)) {
    if (added != kNoValue) SetProduct(c, Added(c, c.ids(c.out()), added));
    return;
  }
  // A vector is a matrix of one row on the left, of one column on the right.
  const bool row = c.rank(a) == 1, column = c.rank(b) == 1;
  const int64_t rank = c.out_rank() + row + column;
  const auto operand = [&](ValueId value) {
    Tensor ids = c.t.Usable(value, c.op.module_path);
    if (ids.defined() && column && value == b) ids = ids.unsqueeze(-1);
    return Align(ids, rank);
  };
  std::vector<int64_t> b_sizes = c.t.sizes(b);
  if (column) b_sizes.push_back(1);
  int32_t use = 0;
  for (const Use& each : UsesOf(c.op))
    if (each.value == a) use = each.arg;
  Tensor left = operand(a), right = operand(b);
  if (c.t.IsFree(a) && !c.t.IsFree(b)) left = Narrowed(c, left, right, rank - 2, rank - 1);
  if (c.t.IsFree(b) && !c.t.IsFree(a)) right = Narrowed(c, right, left, rank - 1, rank - 2);
  Tensor made =
      Product(c, use, left, Widened(c.t.sizes(a), rank), right, Widened(b_sizes, rank), c.rank(a));
  if (made.defined() && column) made = made.squeeze(-1);
  if (made.defined() && row) made = made.squeeze(column ? -1 : -2);
  if (added != kNoValue) made = Added(c, made, added);
  SetProduct(c, made);
}

void PlainMatmul(const Call& c) {
  const ValueId other = c.op.ValueArg(c.op.ArgIndex("other") >= 0 ? "other" : "mat2");
  Matmul(c, c.op.ValueArg("self"), other, kNoValue);
}

void AddedMatmul(const Call& c) {  // baddbmm(self, batch1, batch2)
  Matmul(c, c.op.ValueArg("batch1"), c.op.ValueArg("batch2"), c.op.ValueArg("self"));
}

void Addmm(const Call& c) {  // self + mat1 @ mat2
  const ValueId weight = c.op.ValueArg("mat2"), bias = c.op.ValueArg("self");
  if (!IsWeight(c, weight) || c.rank(bias) != 1) return Opaque(c);
  Dense(c, c.op.ValueArg("mat1"), weight, bias, 0);
}

/// scaled_dot_product_attention(q, k, v): query and key meet over their width, which is also tied
/// to the value's (fused kernels want one width); heads meet across all three. The scale stays that
/// of the uncut width.
void Attention(const Call& c) {
  const ValueId q = c.op.ValueArg("query"), k = c.op.ValueArg("key"), v = c.op.ValueArg("value");
  const int64_t rank = c.out_rank();
  if (c.rank(k) != rank || c.rank(v) != rank || rank < 3) return Opaque(c);
  Tensor query = c.ids(q), key = c.ids(k), value = c.ids(v);
  if (!query.defined() && !key.defined() && !value.defined()) return;
  for (Tensor* ids : {&query, &key, &value}) {
    if (!VariesAlong(*ids, rank - 2)) continue;
    if (VaryingAxes(*ids).size() < 2)
      return PinInputs(c, Str(c.where(), ": cut runs over positions"));
    *ids = Together(c, *ids, rank - 2);  // tokens of several streams, each with layers of its own
  }
  const auto& q_sizes = c.t.sizes(q);
  const int64_t heads = rank - 3, repeat = q_sizes[static_cast<size_t>(heads)] /
                                           c.t.sizes(k)[static_cast<size_t>(heads)];
  const auto spread = [&](const Tensor& ids) {  // grouped queries: each key head serves several
    return VariesAlong(ids, heads) && repeat > 1 ? ids.repeat_interleave(repeat, heads) : ids;
  };
  const Tensor wide_key = spread(key), wide_value = spread(value);
  Contract(c, query, wide_key);
  if (q_sizes.back() == c.t.sizes(v).back()) Contract(c, query, wide_value);
  if (VariesAlong(query, rank - 1)) c.t.AddRead(c.index, c.op.ArgIndex("query"), 0, query);
  if (const auto* scale = c.Constant("scale"); scale && scale->isNone()) {
    Op& op = c.Mutable();
    op.args[static_cast<size_t>(op.ArgIndex("scale"))] =
        c10::IValue(1.0 / std::sqrt(static_cast<double>(q_sizes.back())));
  }
  std::vector<int64_t> score_sizes = q_sizes, value_sizes = c.out_sizes();
  score_sizes.back() = 1;
  Tensor scores = Meet(c, Remaining(c, query, {rank - 1}), score_sizes,
                       Remaining(c, wide_key, {rank - 1}), score_sizes);
  const ValueId mask = c.op.ValueArg("attn_mask");
  if (mask != kNoValue) {
    std::vector<int64_t> mask_sizes = Widened(c.t.sizes(mask), rank);
    Tensor mask_ids = Align(c.ids(mask), rank);
    mask_sizes.back() = 1;  // positions carry no labels
    if (mask_ids.defined() && VariesAlong(mask_ids, rank - 1)) mask_ids = Tensor();
    scores = Meet(c, scores, score_sizes, mask_ids, mask_sizes);
  }
  value_sizes[static_cast<size_t>(rank - 2)] = 1;
  const Tensor made = Meet(c, wide_value, value_sizes, scores, score_sizes);
  SetProduct(c, made);
}

/// "..." by letters of its own for `rank` axes in all; counted from the last, so that operands of
/// several ranks meet as they broadcast.
std::string WithoutEllipsis(const std::string& letters, int64_t rank) {
  const size_t at = letters.find("...");
  if (at == std::string::npos) return letters;
  std::string filled;
  for (auto i = rank - static_cast<int64_t>(letters.size() - 3); i > 0; --i)
    filled += static_cast<char>('0' + i);  // no letter of an equation
  return letters.substr(0, at) + filled + letters.substr(at + 3);
}

/// An einsum of data with a stack of weights: one letter of the weight is contracted, one is new in
/// the result, and the third, which is its first, numbers the slices. Of slices that are picked
/// those of the index stand in its place.
bool RunStackedEinsum(const Call& c, const ValueList& operands, const std::string (&letters)[2],
                      const std::string& result) {
  for (const size_t side : {size_t{1}, size_t{0}}) {
    const std::string &own = letters[side], &other = letters[1 - side];
    const ValueId weight = operands.ids[side];
    if (!IsWeight(c, weight) || own.size() < 3) continue;
    StackedLayer layer{.input = operands.ids[1 - side], .weight = weight, .argument = 1};
    layer.element = static_cast<int32_t>(1 - side);
    int news = 0, contracted = 0;
    for (size_t i = 0; i < own.size(); ++i) {
      const bool given = other.find(own[i]) != std::string::npos;
      const bool stays = result.find(own[i]) != std::string::npos;
      const auto axis = static_cast<int64_t>(i);
      if (!given && !stays) return false;
      if (own.size() > 3 && !c.t.IsPickedStack(weight, axis, axis)) continue;  // of the index
      if (c.t.IsStack(weight, axis, axis)) {  // it is axis 0 of the stored tensor
        layer.stack = axis;
        layer.input_stack = given ? static_cast<int64_t>(other.find(own[i])) : -1;
        layer.output_stack = stays ? static_cast<int64_t>(result.find(own[i])) : -1;
      } else if (given && !stays) {
        ++contracted;
        layer.in = axis;
        layer.input_in = static_cast<int64_t>(other.find(own[i]));
      } else if (!given && stays) {
        ++news;
        layer.out = axis;
        layer.output_out = static_cast<int64_t>(result.find(own[i]));
      }
    }
    return contracted == 1 && news == 1 && RunStackedLayer(c, layer);
  }
  return false;
}

/// An einsum of one operand that only changes the order of its axes.
void Permuted(const Call& c, ValueId input, const std::string& from, const std::string& to) {
  std::vector<int64_t> order;
  for (const char letter : to) order.push_back(static_cast<int64_t>(from.find(letter)));
  const bool each_once = std::ranges::is_permutation(from, to) && from.find('.') == from.npos &&
                         std::set<char>(from.begin(), from.end()).size() == from.size();
  if (!each_once || c.t.IsFree(input)) return Opaque(c);
  if (c.ids(input).defined()) SetMoved(c, c.out(), c.ids(input).permute(order));
}

/// einsum of two operands, as the product it is: letters of both and the result are batch, of both
/// only are contracted.
void Einsum(const Call& c) {
  const c10::IValue* equation = c.Constant("equation");
  const auto* operands = std::get_if<ValueList>(&c.op.args[1]);
  if (!equation || !operands) return Opaque(c);
  std::string text = equation->toStringRef();
  std::erase(text, ' ');
  const size_t comma = text.find(','), arrow = text.find("->");
  if (operands->ids.size() == 1 && arrow != std::string::npos)
    return Permuted(c, operands->ids[0], text.substr(0, arrow), text.substr(arrow + 2));
  if (operands->ids.size() != 2) return Opaque(c);
  if (comma == std::string::npos || arrow == std::string::npos) return Opaque(c);
  const std::string left = WithoutEllipsis(text.substr(0, comma), c.rank(operands->ids[0]));
  const std::string right =
      WithoutEllipsis(text.substr(comma + 1, arrow - comma - 1), c.rank(operands->ids[1]));
  const std::string result = WithoutEllipsis(text.substr(arrow + 2), c.out_rank());
  if (RunStackedEinsum(c, *operands, {left, right}, result)) return;
  std::string all = result;  // result letters, then the contracted ones
  for (const char letter : left + right)
    if (all.find(letter) == std::string::npos) all += letter;
  const auto rank = static_cast<int64_t>(all.size());
  const auto spread = [&](const std::string& letters, ValueId value, std::vector<int64_t>& sizes) {
    sizes.assign(all.size(), 1);
    std::vector<int64_t> order, shape(all.size(), 1);
    const Tensor ids = c.t.Usable(value, c.op.module_path);
    for (size_t i = 0; i < all.size(); ++i) {
      const size_t at = letters.find(all[i]);
      if (at == std::string::npos) continue;
      sizes[i] = c.t.sizes(value)[at];
      order.push_back(static_cast<int64_t>(at));
      if (ids.defined()) shape[i] = ids.size(static_cast<int64_t>(at));
    }
    return ids.defined() ? ids.permute(order).reshape(shape) : ids;
  };
  std::vector<int64_t> a_sizes, b_sizes;
  Tensor a = spread(left, operands->ids[0], a_sizes), b = spread(right, operands->ids[1], b_sizes);
  // Parts of a contracted axis (experts, weighted) are summed up: what stands across them goes
  // together.
  const auto join_parts = [&](Tensor& ids, const Tensor& other, int64_t axis) {
    if (!VariesAlong(ids, axis) || VariesAlong(other, axis)) return;
    const int64_t inner = c.t.InnerAxis(ids);
    if (inner >= 0 && inner != axis && !VariesAlong(other, inner)) ids = Together(c, ids, axis);
  };
  for (auto axis = static_cast<int64_t>(result.size()); axis < rank; ++axis) {
    join_parts(a, b, axis);
    join_parts(b, a, axis);
  }
  // An operand that is cut along its own axes only brings data that cannot be cut along others.
  const auto meets = [&](const Tensor& ids, const std::string& others, int64_t axis) {
    if (!ids.defined() || VariesAlong(ids, axis)) return ids;
    for (size_t i = 0; i < result.size(); ++i)
      if (others.find(result[i]) == std::string::npos && VariesAlong(ids, static_cast<int64_t>(i)))
        return Tensor();
    return ids;
  };
  std::vector<int64_t> contracted;
  for (auto axis = static_cast<int64_t>(result.size()); axis < rank; ++axis) {
    const auto index = static_cast<size_t>(axis);
    if (a_sizes[index] == 1 || b_sizes[index] == 1) {
      if (VariesAlong(a, axis) || VariesAlong(b, axis)) return Opaque(c);  // a plain sum
    }
    contracted.push_back(axis);
    if (!VariesAlong(a, axis) && !VariesAlong(b, axis)) continue;
    Contract(c, meets(a, right, axis), meets(b, left, axis));
    if (a.defined()) {
      std::vector<int64_t> order, shape;
      for (const char letter : left) order.push_back(static_cast<int64_t>(all.find(letter)));
      for (int64_t d = 0; d < rank; ++d)
        if (left.find(all[static_cast<size_t>(d)]) == std::string::npos) order.push_back(d);
      Tensor read = a.permute(order);
      while (read.dim() > static_cast<int64_t>(left.size())) read = read.squeeze(-1);
      c.t.AddRead(c.index, 1, 0, read);
    }
  }
  for (const int64_t axis : contracted) a_sizes[static_cast<size_t>(axis)] = 1;
  for (const int64_t axis : contracted) b_sizes[static_cast<size_t>(axis)] = 1;
  Tensor made = Meet(c, Remaining(c, a, contracted), a_sizes, Remaining(c, b, contracted), b_sizes);
  for (int64_t d = rank - 1; made.defined() && d >= static_cast<int64_t>(result.size()); --d)
    made = made.squeeze(d);
  SetProduct(c, made);
}

}  // namespace

void AddProductRules(LabelRules& rules) {
  AddRules(rules, PlainMatmul, "matmul bmm mm");
  AddRules(rules, AddedMatmul, "baddbmm");
  AddRules(rules, Addmm, "addmm");
  AddRules(rules, Attention, "scaled_dot_product_attention");
  AddRules(rules, Einsum, "einsum");
}

}  // namespace espalier

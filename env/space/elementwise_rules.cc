#include <ATen/ATen.h>

#include <algorithm>
#include <set>

#include "env/space/constants.h"
#include "env/space/label_rules.h"

// Element-wise operators: labels pass through, and operands that meet are tied.

namespace espalier {
namespace {

/// An operand of an element-wise op: its labels in the result's rank, a free parameter or buffer
/// getting a coordinate per element where the other operand is labelled.
struct Operand {
  Tensor ids;
  std::vector<int64_t> sizes;
};

Operand OperandOf(const Call& c, ValueId value, int64_t rank) {
  Operand operand{Align(c.ids(value), rank), c.t.sizes(value)};
  operand.sizes.insert(operand.sizes.begin(), static_cast<size_t>(rank) - operand.sizes.size(), 1);
  return operand;
}

/// Labels of a stored operand that meets labels along one axis: that axis' coordinates. Undefined
/// where it has no such axis, or is known by its elements.
Tensor AlongOneAxis(const Call& c, ValueId value, const Tensor& other) {
  const std::vector<int64_t> varying = VaryingAxes(other);
  if (!c.t.IsStored(value) || varying.size() != 1) return {};
  if (!HoldsNumbers(c.t.MetaOf(value).dtype)) return {};
  const std::string& name = c.t.StoredName(value);
  const int64_t axis = varying[0] - (c.out_rank() - c.rank(value));
  if (axis < 0 || c.t.sizes(value)[static_cast<size_t>(axis)] == 1) return {};
  const CoordinateAxis* known = c.t.FindAxis(name, axis);
  if (c.t.FindElements(name) || (known && known->blocks > 1)) return {};
  const auto& own = c.t.StoredAxis(value, axis, MemberRole::kChannel, false, c.op.module_path);
  return LabelTracer::Along(c.out_rank(), varying[0], LabelTracer::Ids(own));
}

/// A stored operand can only be cut along axes on which the other one's labels run: along others
/// its elements go together.
void Narrow(const Call& c, Operand& stored, const Tensor& other) {
  if (!stored.ids.defined()) return;
  const std::vector<int64_t> varying = VaryingAxes(other);
  for (int64_t axis = 0; axis < stored.ids.dim(); ++axis)
    if (std::find(varying.begin(), varying.end(), axis) == varying.end())
      stored.ids = Together(c, stored.ids, axis);
  if (VaryingAxes(stored.ids).empty()) stored.ids = Tensor();
}

/// Of zeros and ones that were joined to data: no units but those it was given to follow others.
bool IsFiller(const Call& c, const Tensor& ids) {
  const Tensor flat = ids.contiguous();
  return std::all_of(
      flat.const_data_ptr<int64_t>(), flat.const_data_ptr<int64_t>() + flat.numel(),
      [&](int64_t id) { return id <= 0 || c.t.AxisOf(id).kind == CoordinateAxis::Kind::kPhantom; });
}

/// A constant that the graph computes becomes a buffer, which can be cut, where units meet it.
void StoreConstants(const Call& c, std::vector<ValueId>& values) {
  std::set<int64_t> cut;  // axes, from the last
  for (const ValueId value : values)
    if (c.ids(value).defined())
      for (const int64_t axis : VaryingAxes(c.ids(value))) cut.insert(axis - c.rank(value));
  const auto runs_along = [&](ValueId value) {
    return std::ranges::any_of(cut, [&](int64_t axis) {
      return axis + c.rank(value) >= 0 &&
             c.t.sizes(value)[static_cast<size_t>(axis + c.rank(value))] > 1;
    });
  };
  for (ValueId& value : values) {
    if (c.ids(value).defined() && !IsFiller(c, c.ids(value))) continue;
    if (c.t.IsFree(value) || !runs_along(value)) continue;
    const ValueId stored = c.t.StoreConstant(value, c.op.module_path);
    if (stored == kNoValue) continue;
    for (const Use& use : UsesOf(c.op))
      if (use.value == value) c.Mutable().args[static_cast<size_t>(use.arg)] = stored;
    value = stored;
  }
}

void MeetAll(const Call& c, std::vector<ValueId> values) {
  // What is computed of free tensors alone may meet labels later.
  const bool free = !c.name().ends_with("_") && std::ranges::all_of(values, [&](ValueId value) {
    return c.rank(value) == 0 || c.t.IsFree(value);
  });
  bool labelled = false;
  for (const ValueId value : values) {
    if (c.t.IsMovedStored(value)) c.t.Usable(value, c.op.module_path);
    labelled = labelled || free || c.ids(value).defined();
  }
  if (!labelled) {
    for (const ValueId value : values) c.t.SetRigid(value, c.index);
    return;
  }
  if (!free) StoreConstants(c, values);
  const int64_t rank = c.out_rank();
  // The labelled operands first, so that stored ones see all that is known; numbers last.
  std::vector<ValueId> order = values;
  std::ranges::stable_sort(order, {}, [&](ValueId value) {
    if (c.ids(value).defined()) return c.t.IsFree(value) ? 1 : 0;
    return c.rank(value) > 0 ? 2 : 3;
  });
  Operand result = OperandOf(c, order[0], rank);
  if (!result.ids.defined()) result.ids = Align(c.t.Usable(order[0], c.op.module_path), rank);
  for (size_t i = 1; i < order.size(); ++i) {
    Operand next = OperandOf(c, order[i], rank);
    if (!next.ids.defined() && result.ids.defined())
      next.ids = AlongOneAxis(c, order[i], result.ids);
    const bool stored = !next.ids.defined();
    if (stored) next.ids = Align(c.t.Usable(order[i], c.op.module_path), rank);
    if ((stored || c.t.IsFree(order[i])) && result.ids.defined()) Narrow(c, next, result.ids);
    result.ids = Meet(c, result.ids, result.sizes, next.ids, next.sizes);
    for (size_t d = 0; d < result.sizes.size(); ++d)
      result.sizes[d] = std::max(result.sizes[d], next.sizes[d]);
  }
  if (result.ids.defined()) c.t.Set(c.out(), result.ids);
  if (c.name().ends_with("_")) c.t.Set(values[0], c.ids(c.out()));
}

/// A cast, or another handle of the same numbers: of a stored tensor it may still be a weight.
void HandOn(const Call& c) {
  const ValueId input = UsesOf(c.op).front().value;
  const bool stored = c.t.IsStored(input) || c.t.IsMovedStored(input);
  if (stored && !c.ids(input).defined()) return c.t.SetMoved(c.out(), input, c.index, 0);
  CopyLabels(c);
}

/// All tensor operands meet: arithmetic, comparison, where, lerp.
void Arithmetic(const Call& c) {
  std::vector<ValueId> values;
  for (const Use& use : UsesOf(c.op)) values.push_back(use.value);
  if (values.empty()) return;
  MeetAll(c, values);
}

/// copy_(self, source): the labels that were there go, those of the source come; both meet, since
/// the tensor is one.
void Copy(const Call& c) { MeetAll(c, {c.op.ValueArg("self"), c.op.ValueArg("src")}); }

/// masked_fill(self, mask, value): value is a number or a 0-dim tensor.
void MaskedFill(const Call& c) { MeetAll(c, {c.op.ValueArg("self"), c.op.ValueArg("mask")}); }

/// prelu(self, weight): one slope, or one a channel of axis 1.
void Prelu(const Call& c) {
  const ValueId input = c.op.ValueArg("self"), weight = c.op.ValueArg("weight");
  if (!c.ids(input).defined()) return;
  if (!c.t.IsStored(weight)) return Opaque(c);
  if (c.t.sizes(weight)[0] > 1)
    Tie(c, c.t.AxisIds(input, 1, c.where()),
        c.t.StoredAxis(weight, 0, MemberRole::kChannel, false, c.op.module_path));
  c.t.Set(c.out(), c.ids(input));
}

/// softmax and cumulative ops: labels pass, but not along the axis they work on. Where they run
/// along others too (paths of a selective kernel), what stands along that axis goes together.
void AlongAxis(const Call& c) {
  const ValueId input = UsesOf(c.op).front().value;
  if (!c.ids(input).defined()) return;
  const int64_t dim = c.Dim("dim", c.rank(input));
  Tensor ids = c.ids(input);
  if (ids.size(dim) > 1) {
    if (VaryingAxes(ids).size() < 2 || c.t.InnerAxis(ids) == dim)
      return c.t.PinAll(ids, Str(c.where(), ": works along a prunable axis"));
    ids = Together(c, ids, dim);
  }
  for (const ValueId output : c.op.outputs) c.t.Set(output, ids);
}

/// glu(self, dim): the first half of the axis gated by the second.
void Glu(const Call& c) {
  const ValueId input = c.op.ValueArg("self");
  if (!c.ids(input).defined()) return;
  const int64_t dim = c.Dim("dim", c.rank(input));
  const Tensor& ids = c.ids(input);
  if (ids.size(dim) == 1) return c.t.PinAll(ids, Str(c.where(), ": halves an axis"));
  const auto halves = ids.chunk(2, dim);
  c.t.Set(c.out(), Meet(c, halves[0], c.out_sizes(), halves[1], c.out_sizes()));
}

/// Pooling and interpolation: labels must not run over space; the output carries them unchanged.
void Spatial(const Call& c) {
  const ValueId input = c.op.args.empty() ? kNoValue : std::get<ValueId>(c.op.args[0]);
  if (!Data(c, input).defined()) return;
  const int64_t rank = c.rank(input);
  if (rank < 3 || (!VaryingAxes(c.ids(input)).empty() && c.ids(input).size(1) == 1))
    return PinInputs(c, Str(c.where(), ": cut runs over space"));
  const std::vector<int64_t> ids = c.t.AxisIds(input, 1, c.where());
  for (const ValueId output : c.op.outputs)
    c.t.Set(output, LabelTracer::Along(c.rank(output), 1, ids));
}

void Nothing(const Call&) {}

/// outer(self, vec2) of data by constants (angles of given places by frequencies): the constants
/// become a buffer, which can be cut.
void Outer(const Call& c) {
  if (OpsOfConstant(c.t.network().graph, c.out())) return;
  for (const char* name : {"self", "vec2"}) {
    const ValueId value = c.op.ValueArg(name);
    Tensor ids = c.ids(value);
    if (!ids.defined()) {
      const ValueId stored = c.t.StoreConstant(value, c.op.module_path);
      if (stored == kNoValue) continue;
      c.Mutable().args[static_cast<size_t>(c.op.ArgIndex(name))] = stored;
      ids = c.t.Usable(stored, c.op.module_path);
    }
    if (c.ids(c.out()).defined()) return Opaque(c);
    if (ids.defined()) c.t.Set(c.out(), ids.unsqueeze(name == std::string("self") ? 1 : 0));
  }
}

}  // namespace

void AddElementwiseRules(LabelRules& rules) {
  AddRules(
      rules, CopyLabels,
      "relu relu_ hardtanh hardtanh_ relu6 leaky_relu elu elu_ gelu gelu_ silu silu_ mish "
      "mish_ sigmoid sigmoid_ tanh tanh_ hardswish selu celu hardswish_ hardsigmoid "
      "softplus exp neg abs sqrt hardsigmoid_ rsqrt square clamp clamp_ log leaky_relu_ "
      "dropout dropout_ sin cos feature_dropout detach_ feature_dropout_ "
      "identity zero_ fill_ erf round floor reciprocal log1p expm1 sign clamp_min clamp_max "
      "lift_fresh_copy absolute negative clip positive exp2 tan asin acos atan sinh cosh "
      "asinh acosh atanh ceil trunc frac sinc erfc log2 log10 hardshrink softshrink "
      "threshold nan_to_num float_power relu6_ rrelu sgn signbit isinf isfinite digamma "
      "lgamma i0 tanhshrink bernoulli softsign logit isnan log_sigmoid logical_not round_ floor_ "
      "ceil_ abs_ neg_ exp_ log_ sqrt_ rsqrt_ square_ reciprocal_ clamp_min_ clamp_max_");
  AddRules(rules, HandOn, "to _to_copy type_as detach alias clone contiguous");
  AddRules(rules, Arithmetic,
           "multiply subtract divide true_divide floor_divide fmod atan2 xlogy greater "
           "greater_equal less less_equal not_equal hypot add add_ sub sub_ rsub mul mul_ div "
           "div_ maximum pow eq ne lt le gt ge minimum where lerp and or logical_and logical_or "
           "remainder addcmul complex polar");
  AddRules(rules, Outer, "outer ger");
  AddRules(rules, Copy, "copy_ copy");
  AddRules(rules, MaskedFill, "masked_fill masked_fill_");
  AddRules(rules, Prelu, "prelu");
  AddRules(rules, AlongAxis, "softmax _softmax log_softmax cumsum cumprod logcumsumexp");
  AddRules(rules, Glu, "glu");
  AddRules(rules, Spatial,
           "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d "
           "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d "
           "adaptive_max_pool2d max_pool2d_with_indices upsample_nearest1d upsample_nearest2d "
           "upsample_nearest3d upsample_linear1d upsample_bilinear2d upsample_bicubic2d "
           "upsample_trilinear3d _upsample_bicubic2d_aa _upsample_bilinear2d_aa "
           "upsample_nearest_exact2d _upsample_nearest_exact2d adaptive_max_pool3d");
  AddRules(rules, Nothing, "sym_size size arange scalar_tensor item _assert_tensor_metadata");
}

}  // namespace espalier

#include <ATen/ATen.h>

#include <algorithm>
#include <set>
#include <unordered_map>

#include "env/base/error.h"
#include "env/space/label_tracer.h"

// One rule per class of operator. A rule says which coordinates are coupled and what labels the
// outputs carry; an operator without a rule pins everything it reads.

namespace espalier {
namespace {

/// What a rule works on.
struct Call {
  LabelTracer& t;
  int32_t index;
  const Op& op;

  std::string where() const { return Str(op.target(), " at '", op.module_path, "'"); }
  ValueId out() const { return op.outputs.front(); }
  const std::vector<int64_t>& out_sizes() const { return t.sizes(out()); }
  int64_t out_rank() const { return static_cast<int64_t>(out_sizes().size()); }
};

int64_t Wrap(int64_t axis, int64_t rank) { return axis < 0 ? axis + rank : axis; }

/// Axes along which compressed labels run.
std::vector<int64_t> VaryingAxes(const Tensor& ids) {
  std::vector<int64_t> axes;
  for (int64_t d = 0; d < ids.dim(); ++d)
    if (ids.size(d) > 1) axes.push_back(d);
  return axes;
}

/// Shrinks every axis along which the labels do not change to size 1. Filler (0) counts as equal to
/// anything, so that spatial padding does not make a channel label run over space.
Tensor Compress(Tensor ids) {
  for (int64_t d = 0; d < ids.dim(); ++d) {
    if (ids.size(d) <= 1) continue;
    const Tensor high = ids.amax(d, /*keepdim=*/true);
    const Tensor same = (ids == high).logical_or(ids == 0).logical_and(high >= 0);
    const Tensor rigid = (ids == high);
    if (same.all().item<bool>() || rigid.all().item<bool>()) ids = high;
  }
  return ids;
}

void PinInputs(const Call& c, const std::string& reason) {
  for (const Use& use : UsesOf(c.op)) c.t.PinAll(c.t.labels(use.value), reason);
}

void Opaque(const Call& c) { PinInputs(c, Str(c.where(), ": no rule for this operator")); }

bool AnyLabelled(const Call& c) {
  for (const Use& use : UsesOf(c.op))
    if (c.t.labels(use.value).defined()) return true;
  return false;
}

// ---- contractions -------------------------------------------------------------------------------

/// Couples the ids read along an axis with a stored tensor's coordinates. Coordinates that meet
/// data which cannot be cut are pinned: a tensor used twice may meet prunable data elsewhere.
void Tie(const Call& c, const std::vector<int64_t>& ids, const CoordinateAxis& axis) {
  for (size_t i = 0; i < ids.size(); ++i) {
    const int64_t coordinate = axis.first + static_cast<int64_t>(i);
    if (ids[i] > 0)
      c.t.Union(ids[i], coordinate);
    else
      c.t.Pin(coordinate, Str(c.where(), ": reads data that cannot be cut"));
  }
}

void SetFresh(const Call& c, int64_t axis_position, const CoordinateAxis& axis) {
  c.t.Set(c.out(), LabelTracer::Along(c.out_rank(), axis_position, LabelTracer::Ids(axis)));
}

void TieBias(const Call& c, const CoordinateAxis& rows) {
  const ValueId bias = c.op.ValueArg("bias");
  if (!c.t.IsStored(bias)) return;
  Tie(c, LabelTracer::Ids(rows),
      c.t.StoredAxis(bias, 0, MemberRole::kProducer, false, c.op.module_path));
}

void Convolution(const Call& c) {
  const ValueId input = c.op.ValueArg("input"), weight = c.op.ValueArg("weight");
  const bool transposed = c.op.ArgIndex("transposed") >= 0 && c.op.Constant("transposed").toBool();
  if (!c.t.IsStored(weight) || transposed) return Opaque(c);
  const int64_t groups = c.op.Constant("groups").toInt();
  const int64_t in = c.t.sizes(input)[1], out = c.t.sizes(weight)[0];
  const std::vector<int64_t> ids = c.t.AxisIds(input, 1, c.where());
  const std::string& layer = c.op.module_path;
  if (groups > 1 && groups == in) {  // depthwise: out rows follow the inputs, in blocks of out / in
    const auto& rows = c.t.StoredAxis(weight, 0, MemberRole::kChannel, false, layer);
    std::vector<int64_t> repeated;
    for (int64_t row = 0; row < out; ++row)
      repeated.push_back(ids[static_cast<size_t>(row / (out / in))]);
    Tie(c, repeated, rows);
    TieBias(c, rows);
    SetFresh(c, 1, rows);
    return;
  }
  const auto& columns = c.t.StoredAxis(weight, 1, MemberRole::kConsumer, false, layer, groups, in);
  Tie(c, ids, columns);
  c.t.AddRead(c.index, "input", 1, ids);
  auto& rows = c.t.StoredAxis(weight, 0, MemberRole::kProducer, true, layer);
  rows.runs = std::max(rows.runs, groups);
  TieBias(c, rows);
  SetFresh(c, 1, rows);
}

void Linear(const Call& c) {
  const ValueId input = c.op.ValueArg("input"), weight = c.op.ValueArg("weight");
  if (!c.t.IsStored(weight)) return Opaque(c);
  const auto last = static_cast<int64_t>(c.t.sizes(input).size()) - 1;
  const std::vector<int64_t> ids = c.t.AxisIds(input, last, c.where());
  Tie(c, ids, c.t.StoredAxis(weight, 1, MemberRole::kConsumer, false, c.op.module_path));
  c.t.AddRead(c.index, "input", last, ids);
  const auto& rows = c.t.StoredAxis(weight, 0, MemberRole::kProducer, true, c.op.module_path);
  TieBias(c, rows);
  SetFresh(c, c.out_rank() - 1, rows);
}

void BatchNorm(const Call& c) {
  const ValueId input = c.op.ValueArg("input");
  const std::vector<int64_t> ids = c.t.AxisIds(input, 1, c.where());
  for (const char* name : {"weight", "bias", "running_mean", "running_var"}) {
    const ValueId stored = c.op.ValueArg(name);
    if (stored == kNoValue) continue;
    if (!c.t.IsStored(stored)) return Opaque(c);
    Tie(c, ids, c.t.StoredAxis(stored, 0, MemberRole::kChannel, false, c.op.module_path));
  }
  if (c.t.labels(input).defined()) c.t.Set(c.out(), LabelTracer::Along(c.out_rank(), 1, ids));
}

/// index_add(trunk, dim, index, branch): the branch's channels are named by a stored index list, so
/// they can go one by one; the trunk keeps its width, since the list counts in its coordinates.
void IndexAdd(const Call& c) {
  const ValueId trunk = c.op.ValueArg("self"), branch = c.op.ValueArg("source");
  const ValueId index = c.op.ValueArg("index");
  if (!c.t.IsStored(index)) return Opaque(c);
  const int64_t dim = Wrap(c.op.Constant("dim").toInt(), c.out_rank());
  const std::vector<int64_t> ids = c.t.AxisIds(branch, dim, c.where());
  Tie(c, ids, c.t.StoredAxis(index, 0, MemberRole::kConsumer, false, c.op.module_path));
  c.t.AddRead(c.index, "source", dim, ids);
  c.t.PinAll(c.t.labels(trunk), "residual trunk that keeps its width (decoupled branches)");
}

// ---- element-wise -------------------------------------------------------------------------------

void Unary(const Call& c) {
  for (const Use& use : UsesOf(c.op)) {
    const Labels& labels = c.t.labels(use.value);
    if (use.arg == 0 && labels.defined())
      c.t.Set(c.out(), labels.ids);
    else if (labels.defined())
      return Opaque(c);
  }
}

/// Right-aligns compressed labels or sizes with a broadcast result of `rank` axes.
Tensor Align(const Tensor& ids, int64_t rank) {
  std::vector<int64_t> shape(static_cast<size_t>(rank - ids.dim()), 1);
  shape.insert(shape.end(), ids.sizes().begin(), ids.sizes().end());
  return ids.view(shape);
}

/// Labels of a free parameter or buffer operand: its coordinates along the one axis on which the
/// other operand's labels run.
Tensor StoredOperand(const Call& c, ValueId stored, const Tensor& other) {
  const auto& sizes = c.t.sizes(stored);
  const auto rank = static_cast<int64_t>(sizes.size());
  for (const int64_t axis : VaryingAxes(other)) {
    const int64_t own = axis - (other.dim() - rank);
    if (own < 0 || sizes[static_cast<size_t>(own)] == 1) continue;
    return LabelTracer::Along(rank, own,
                              LabelTracer::Ids(c.t.StoredAxis(stored, own, MemberRole::kChannel,
                                                              false, c.op.module_path)));
  }
  return {};
}

/// True when the operand has size 1 on an axis along which the other's labels run: a gate or mean
/// that is broadcast over the units and so not tied to them.
bool IsBroadcastOver(const std::vector<int64_t>& sizes, const Tensor& other) {
  const auto rank = static_cast<int64_t>(sizes.size());
  for (const int64_t axis : VaryingAxes(other)) {
    const int64_t own = axis - (other.dim() - rank);
    if (own < 0 || sizes[static_cast<size_t>(own)] == 1) return true;
  }
  return false;
}

void Binary(const Call& c) {
  const auto uses = UsesOf(c.op);
  if (uses.size() == 1) return Unary(c);  // the other operand is a number
  const int64_t rank = c.out_rank();
  const ValueId a = uses[0].value, b = uses[1].value;
  Tensor left = c.t.labels(a).ids, right = c.t.labels(b).ids;
  if (left.defined()) left = Align(left, rank);
  if (right.defined()) right = Align(right, rank);
  if (!left.defined() && !right.defined()) return;
  if (!right.defined() && c.t.IsStored(b)) right = StoredOperand(c, b, left);
  if (!left.defined() && c.t.IsStored(a)) left = StoredOperand(c, a, right);
  if (right.defined()) right = Align(right, rank);
  if (left.defined()) left = Align(left, rank);
  const Tensor none = at::full({}, -1, at::kLong);
  const bool left_free = right.defined() && IsBroadcastOver(c.t.sizes(a), right);
  const bool right_free = left.defined() && IsBroadcastOver(c.t.sizes(b), left);
  if (left_free && right_free) return PinInputs(c, Str(c.where(), ": outer product of two cuts"));
  if (right_free) return c.t.Set(c.out(), left);
  if (left_free) return c.t.Set(c.out(), right);
  const auto both =
      at::broadcast_tensors({left.defined() ? left : none, right.defined() ? right : none});
  const Tensor x = both[0].contiguous(), y = both[1].contiguous();
  const int64_t* xs = x.const_data_ptr<int64_t>();
  const int64_t* ys = y.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < x.numel(); ++i) {
    c.t.Union(xs[i], ys[i]);
    if (xs[i] > 0 && ys[i] < 0)
      c.t.Pin(xs[i], Str(c.where(), ": joined with data that cannot be cut"));
    if (ys[i] > 0 && xs[i] < 0)
      c.t.Pin(ys[i], Str(c.where(), ": joined with data that cannot be cut"));
  }
  c.t.Set(c.out(), at::where(x > 0, x, at::where(y > 0, y, at::minimum(x, y))));
  if (c.op.handle.operator_name().name.ends_with("_")) c.t.Set(a, c.t.labels(c.out()).ids);
}

// ---- spatial ------------------------------------------------------------------------------------

/// Pooling and interpolation: labels must not run over space; the output carries them unchanged.
void Spatial(const Call& c) {
  const ValueId input = c.op.args.empty() ? kNoValue : std::get<ValueId>(c.op.args[0]);
  if (!c.t.labels(input).defined()) return;
  const auto rank = static_cast<int64_t>(c.t.sizes(input).size());
  for (const int64_t axis : VaryingAxes(c.t.labels(input).ids))
    if (axis > 1 || rank < 3) return PinInputs(c, Str(c.where(), ": cut runs over space"));
  c.t.Set(c.out(), LabelTracer::Along(c.out_rank(), 1, c.t.AxisIds(input, 1, c.where())));
}

void Reduce(const Call& c) {
  const ValueId input = c.op.ValueArg("self");
  if (!c.t.labels(input).defined()) return;
  const auto rank = static_cast<int64_t>(c.t.sizes(input).size());
  if (c.op.ArgIndex("dim") < 0) return Opaque(c);
  const c10::IValue& dims = c.op.Constant("dim");
  if (dims.isNone() || dims.toIntVector().empty()) return Opaque(c);
  std::vector<int64_t> reduced = dims.toIntVector();
  for (int64_t& axis : reduced) axis = Wrap(axis, rank);
  Tensor ids = c.t.labels(input).ids;
  for (const int64_t axis : reduced)
    if (ids.size(axis) > 1) return PinInputs(c, Str(c.where(), ": reduces over a prunable axis"));
  if (!c.op.Constant("keepdim").toBool()) {
    std::sort(reduced.rbegin(), reduced.rend());
    for (const int64_t axis : reduced) ids = ids.squeeze(axis);
  }
  c.t.Set(c.out(), ids);
}

// ---- data movement ------------------------------------------------------------------------------

void Cat(const Call& c) {
  const auto& ids = std::get<ValueList>(c.op.args[0]).ids;
  if (!AnyLabelled(c)) return;
  const int64_t rank = c.out_rank();
  const int64_t dim = Wrap(c.op.Constant("dim").toInt(), rank);
  std::vector<int64_t> shape(static_cast<size_t>(rank), 1);
  std::vector<Tensor> parts;
  for (const ValueId id : ids) {  // the common shape of all operands off the joined axis
    const Labels& labels = c.t.labels(id);
    parts.push_back(labels.defined()
                        ? labels.ids
                        : at::full(std::vector<int64_t>(shape.size(), 1), -1, at::kLong));
    for (int64_t d = 0; d < rank; ++d)
      if (d != dim)
        shape[static_cast<size_t>(d)] =
            std::max(shape[static_cast<size_t>(d)], parts.back().size(d));
  }
  for (size_t i = 0; i < parts.size(); ++i) {
    shape[static_cast<size_t>(dim)] = c.t.sizes(ids[i])[static_cast<size_t>(dim)];
    parts[i] = parts[i].expand(shape);
  }
  c.t.Set(c.out(), at::cat(parts, dim));
}

/// Zero padding. Padding along the units' own axis is made of units too (a shortcut padded with
/// zero channels): it gets coordinates of its own, which the addition that follows couples.
void Pad(const Call& c) {
  const ValueId input = c.op.ValueArg("self");
  if (!c.t.labels(input).defined()) return;
  const std::vector<int64_t> pads = c.op.Constant("pad").toIntVector();
  const c10::IValue& value = c.op.Constant("value");
  const int mode = c.op.ArgIndex("mode");
  const bool zeros = value.isNone() || value.toScalar().toDouble() == 0;
  if (!zeros || (mode >= 0 && c.op.Constant("mode").toStringRef() != "constant")) return Opaque(c);
  Tensor ids = c.t.labels(input).ids;
  for (size_t i = 0; i < pads.size() / 2; ++i) {
    const int64_t axis = c.out_rank() - 1 - static_cast<int64_t>(i);
    const int64_t left = pads[2 * i], right = pads[2 * i + 1];
    if ((left == 0 && right == 0) || ids.size(axis) == 1) continue;  // spatial filler stays implied
    if (left < 0 || right < 0) return Opaque(c);
    std::vector<int64_t> padding_ids =
        LabelTracer::Ids(c.t.PaddingAxis(left + right, c.op.module_path));
    const Tensor padding = LabelTracer::Along(c.out_rank(), axis, padding_ids);
    ids = at::cat({padding.narrow(axis, 0, left), ids, padding.narrow(axis, left, right)}, axis);
  }
  c.t.Set(c.out(), ids);
}

/// Any other data movement: the operator runs itself on full-size labels.
void Move(const Call& c) {
  if (!AnyLabelled(c)) return;
  const ValueId input = std::get<ValueId>(c.op.args[0]);
  std::vector<c10::IValue> stack;
  for (size_t a = 0; a < c.op.args.size(); ++a) {
    if (a == 0)
      stack.emplace_back(c.t.labels(input).ids.expand(c.t.sizes(input)));
    else if (const auto* constant = std::get_if<c10::IValue>(&c.op.args[a]))
      stack.push_back(*constant);
    else
      return Opaque(c);
  }
  const bool is_view = c.op.handle.operator_name().name == "aten::view";
  if (is_view)  // labels are strided differently from the data: copy where a view is impossible
    stack = {stack[0].toTensor().reshape(stack[1].toIntVector())};
  else
    c.op.handle.callBoxed(stack);
  const std::vector<Tensor> results = c.op.returns_list
                                          ? stack.front().toTensorVector()
                                          : std::vector<Tensor>{stack.front().toTensor()};
  for (size_t i = 0; i < results.size(); ++i) {
    const Tensor ids = Compress(results[i]);
    if (VaryingAxes(ids).size() > 1)
      return PinInputs(c, Str(c.where(), ": splits a prunable axis in two"));
    c.t.Set(c.op.outputs[i], ids);
  }
}

/// Slices and splits: exact where they run over a rigid axis; literals along a cut axis would have
/// to follow, which these operators' arguments cannot always express.
void MoveOffUnits(const Call& c) {
  const ValueId input = std::get<ValueId>(c.op.args[0]);
  const Labels& labels = c.t.labels(input);
  if (!labels.defined()) return;
  const int64_t dim =
      Wrap(c.op.Constant("dim").toInt(), static_cast<int64_t>(c.t.sizes(input).size()));
  if (labels.ids.size(dim) > 1) return PinInputs(c, Str(c.where(), ": slices a prunable axis"));
  Move(c);
}

void Nothing(const Call&) {}

using Rule = void (*)(const Call&);

const std::unordered_map<std::string, Rule>& Rules() {
  static const auto* rules = [] {
    auto* table = new std::unordered_map<std::string, Rule>();
    const auto add = [&](Rule rule, std::initializer_list<const char*> names) {
      for (const char* name : names) (*table)[Str("aten::", name)] = rule;
    };
    add(Convolution, {"conv1d", "conv2d", "conv3d", "convolution", "_convolution"});
    add(Linear, {"linear"});
    add(BatchNorm, {"batch_norm"});
    add(IndexAdd, {"index_add"});
    add(Unary, {"relu",
                "relu_",
                "hardtanh",
                "hardtanh_",
                "relu6",
                "relu6_",
                "leaky_relu",
                "leaky_relu_",
                "elu",
                "elu_",
                "gelu",
                "silu",
                "silu_",
                "mish",
                "sigmoid",
                "sigmoid_",
                "tanh",
                "tanh_",
                "hardswish",
                "hardswish_",
                "hardsigmoid",
                "hardsigmoid_",
                "softplus",
                "exp",
                "neg",
                "abs",
                "sqrt",
                "rsqrt",
                "square",
                "pow",
                "clamp",
                "clamp_",
                "dropout",
                "dropout_",
                "feature_dropout",
                "feature_dropout_",
                "clone",
                "contiguous",
                "detach",
                "detach_",
                "alias",
                "to",
                "_to_copy",
                "identity"});
    add(Binary, {"add", "add_", "sub", "sub_", "mul", "mul_", "div", "div_", "maximum", "minimum"});
    add(Spatial,
        {"max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d",
         "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool2d",
         "max_pool2d_with_indices", "upsample_nearest2d", "upsample_bilinear2d"});
    add(Reduce, {"mean", "sum", "amax", "amin"});
    add(Cat, {"cat", "concat"});
    add(Pad, {"constant_pad_nd", "pad"});
    add(Move, {"view", "reshape", "flatten", "permute", "transpose", "t", "squeeze", "unsqueeze",
               "movedim", "unflatten"});
    add(MoveOffUnits,
        {"slice", "narrow", "select", "chunk", "split", "split_with_sizes", "unbind"});
    add(Nothing, {"sym_size", "size"});
    return table;
  }();
  return *rules;
}

}  // namespace

void ApplyLabelRule(LabelTracer& tracer, int32_t op_index) {
  const Op& op = tracer.network().graph.ops[static_cast<size_t>(op_index)];
  const Call call{tracer, op_index, op};
  const auto rule = Rules().find(op.handle.operator_name().name);
  if (rule == Rules().end()) return Opaque(call);
  rule->second(call);
}

}  // namespace espalier

#include "env/space/label_rules.h"

#include <ATen/ATen.h>
#include <ATen/ExpandUtils.h>

#include <algorithm>
#include <ranges>

#include "env/base/words.h"

// What the families of label rules share. A rule says which coordinates are coupled and what labels
// the outputs carry; an operator without a rule pins everything it reads.

namespace espalier {

int64_t Call::Dim(const std::string& argument, int64_t rank) const {
  const int64_t axis = op.Constant(argument).toInt();
  return axis < 0 ? axis + rank : axis;
}

const c10::IValue* Call::Constant(const std::string& argument) const {
  const int arg = op.ArgIndex(argument);
  return arg < 0 ? nullptr : std::get_if<c10::IValue>(&op.args[static_cast<size_t>(arg)]);
}

void PinInputs(const Call& c, const std::string& reason) {
  for (const Use& use : UsesOf(c.op)) c.t.PinAll(c.ids(use.value), reason);
}

void Opaque(const Call& c) {
  PinInputs(c, Str(c.where(), ": no rule for this operator"));
  for (const Use& use : UsesOf(c.op)) c.t.SetRigid(use.value, c.index);
}

bool AnyLabelled(const Call& c) {
  for (const Use& use : UsesOf(c.op))
    if (c.ids(use.value).defined()) return true;
  return false;
}

const Tensor& Data(const Call& c, ValueId input) {
  if (c.t.IsFree(input)) {
    const Tensor own = c.t.Usable(input, c.op.module_path);
    if (c.t.IsStored(input)) c.t.Set(input, own);
  }
  return c.ids(input);
}

bool IgnoresNumbers(const Op& op, const Use& use) {
  const std::string& name = op.handle.operator_name().name;
  if (name == "aten::type_as" || name == "aten::to") return use.arg != 0;
  return name == "aten::zero_" || name == "aten::fill_";
}

void CopyLabels(const Call& c) {
  const std::vector<Use> uses = UsesOf(c.op);
  if (uses.empty()) return;
  if (!c.name().ends_with("_")) {  // what is written in place is no free tensor
    const Tensor own = c.t.Usable(uses.front().value, c.op.module_path);
    if (c.t.IsStored(uses.front().value)) return c.t.Set(c.out(), own);
  }
  for (const Use& use : uses) {
    if (!c.ids(use.value).defined()) continue;
    if (use.arg != 0 && IgnoresNumbers(c.op, use)) continue;
    if (use.arg != 0) return Opaque(c);
    c.t.Set(c.out(), c.ids(use.value));
  }
}

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

void Move(const Call& c) {
  const ValueId input = std::get<ValueId>(c.op.args[0]);
  const Tensor labels = FullLabels(c, input);
  if (!labels.defined()) return;
  const std::vector<Tensor> results = RunMovement(c.op, labels, c.t.meta());
  if (results.empty()) return Opaque(c);
  for (size_t i = 0; i < results.size(); ++i) SetMoved(c, c.op.outputs[i], results[i]);
}

void Tie(const Call& c, const std::vector<int64_t>& ids, const std::vector<int64_t>& coordinates) {
  int32_t rigid = -1;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] > 0) {
      c.t.Union(ids[i], coordinates[i]);
      continue;
    }
    if (rigid < 0) rigid = c.t.Reason(Str(c.where(), ": reads data that cannot be cut"));
    c.t.Pin(coordinates[i], rigid);
  }
}

void Tie(const Call& c, const std::vector<int64_t>& ids, const CoordinateAxis& axis) {
  Tie(c, ids, LabelTracer::Ids(axis));
}

void TieBias(const Call& c, ValueId bias, const std::vector<int64_t>& rows) {
  if (bias == kNoValue) return;
  const auto ids = c.t.WeightIds(bias, 0, MemberRole::kProducer, false, c.op.module_path);
  if (ids.size() == rows.size()) return Tie(c, rows, ids);
  std::vector<int64_t> made(rows.size(), -1);  // of several parameters that were joined
  if (c.ids(bias).defined() && c.rank(bias) == 1) made = c.t.AxisIds(bias, 0, c.where());
  for (size_t i = 0; i < rows.size(); ++i)
    if (made[i] > 0)
      c.t.Union(rows[i], made[i]);
    else
      c.t.Pin(rows[i], Str(c.where(), ": its bias is computed"));
}

void SetFresh(const Call& c, int64_t axis_position, const std::vector<int64_t>& ids) {
  c.t.Set(c.out(), LabelTracer::Along(c.out_rank(), axis_position, ids));
}

Tensor Together(const Call& c, const Tensor& ids, int64_t axis) {
  const Tensor one = ids.narrow(axis, 0, 1);
  if (ids.size(axis) == 1) return one;
  const Tensor all = ids.contiguous(), first = one.expand(ids.sizes()).contiguous();
  for (int64_t i = 0; i < all.numel(); ++i)
    c.t.Union(all.const_data_ptr<int64_t>()[i], first.const_data_ptr<int64_t>()[i]);
  return one;
}

Tensor Align(const Tensor& ids, int64_t rank) {
  if (!ids.defined()) return ids;
  std::vector<int64_t> shape(static_cast<size_t>(rank - ids.dim()), 1);
  shape.insert(shape.end(), ids.sizes().begin(), ids.sizes().end());
  return ids.reshape(shape);
}

void PinSlabs(const Call& c, const Tensor& ids, const std::vector<int64_t>& kept,
              const std::string& reason) {
  if (!kept.empty()) c.t.PinAll(c.t.Slabs(ids, kept), reason);
}

Tensor Remaining(const Call& c, const Tensor& ids, const std::vector<int64_t>& axes) {
  if (!ids.defined()) return {};
  std::vector<int64_t> kept, reduced;
  for (const int64_t d : VaryingAxes(ids))
    (std::find(axes.begin(), axes.end(), d) == axes.end() ? kept : reduced).push_back(d);
  if (reduced.empty()) return ids;
  if (kept.empty()) return {};
  const int64_t inner = c.t.InnerAxis(ids);
  if (std::find(reduced.begin(), reduced.end(), inner) != reduced.end())
    return c.t.Slabs(ids, kept);
  Tensor left = ids;
  for (const int64_t axis : reduced) left = Together(c, left, axis);
  return left;
}

/// Unions what meets element by element; labels that meet data which cannot be cut are pinned.
Tensor UnionElements(const Call& c, const Tensor& a, const Tensor& b) {
  const auto shape = !a.defined()   ? b.sizes().vec()
                     : !b.defined() ? a.sizes().vec()
                                    : at::infer_size(a.sizes(), b.sizes());
  const Tensor none = LabelTracer::Make({-1}, std::vector<int64_t>(shape.size(), 1));
  const Tensor x = (a.defined() ? a : none).expand(shape).contiguous();
  const Tensor y = (b.defined() ? b : none).expand(shape).contiguous();
  Tensor met = at::empty(shape, at::kLong);
  const int64_t *xs = x.const_data_ptr<int64_t>(), *ys = y.const_data_ptr<int64_t>();
  int64_t* result = met.mutable_data_ptr<int64_t>();
  int32_t rigid = -1;
  for (int64_t i = 0; i < x.numel(); ++i) {
    const auto [low, high] = std::minmax(xs[i], ys[i]);
    c.t.Union(low, high);
    if (low < 0 && high > 0) {
      if (rigid < 0) rigid = c.t.Reason(Str(c.where(), ": joined with data that cannot be cut"));
      c.t.Pin(high, rigid);
    }
    result[i] = xs[i] > 0 ? xs[i] : ys[i] > 0 ? ys[i] : low;
  }
  return met;
}

namespace {

/// The smaller operand has size 1 on `missing` axes, along which the larger one's labels run: it is
/// broadcast over those units. What they have in common is tied by slab.
Tensor MeetBroadcast(const Call& c, const Tensor& large, const Tensor& given,
                     const std::vector<int64_t>& small_sizes) {
  Tensor small = given;
  if (small.defined() && VaryingAxes(small).empty()) {  // a gate for all of the other operand
    c.t.PinAll(small, Str(c.where(), ": a single unit for all that it is joined with"));
    small = Tensor();
  }
  std::vector<int64_t> common;
  for (const int64_t axis : VaryingAxes(large))
    if (small_sizes[static_cast<size_t>(axis)] > 1) common.push_back(axis);
  const std::string rigid = Str(c.where(), ": joined with data that cannot be cut");
  if (small.defined())
    for (const int64_t axis : VaryingAxes(small))
      if (std::find(common.begin(), common.end(), axis) == common.end()) {
        // Both run along axes of their own; one tensor cannot carry both.
        c.t.PinAll(small, Str(c.where(), ": outer product of two cuts"));
        PinSlabs(c, large, common, Str(c.where(), ": outer product of two cuts"));
        return large;
      }
  if (common.empty()) return large;
  // What runs along the inner axis is shared by all blocks; what runs along an outer one belongs to
  // whole blocks (a factor per head).
  if (std::find(common.begin(), common.end(), c.t.InnerAxis(large)) != common.end()) {
    if (small.defined()) return c.t.Canonical(UnionElements(c, large, small));
    Tensor whole = large;  // data that cannot be cut is the same for every head: heads as a whole
    for (const int64_t axis : common) whole = Together(c, whole, axis);
    return whole;
  }
  const Tensor slabs = c.t.Slabs(large, common).contiguous();
  if (!small.defined()) {
    c.t.PinAll(slabs, rigid);
    return large;
  }
  const Tensor met = small.expand(slabs.sizes()).contiguous();
  const int64_t *whole = slabs.const_data_ptr<int64_t>(), *part = met.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < slabs.numel(); ++i) {
    c.t.Union(whole[i], part[i]);
    if (whole[i] < 0) c.t.Pin(part[i], rigid);
    if (part[i] < 0) c.t.Pin(whole[i], rigid);
  }
  return large;
}

bool AreSlabs(const Call& c, const Tensor& ids) {
  const Tensor flat = ids.contiguous();
  return std::all_of(
      flat.const_data_ptr<int64_t>(), flat.const_data_ptr<int64_t>() + flat.numel(),
      [&](int64_t id) { return id > 0 && c.t.AxisOf(id).kind == CoordinateAxis::Kind::kSlab; });
}

}  // namespace

Tensor Meet(const Call& c, const Tensor& a, const std::vector<int64_t>& a_sizes, const Tensor& b,
            const std::vector<int64_t>& b_sizes) {
  if (!a.defined() && !b.defined()) return {};
  const auto misses = [](const std::vector<int64_t>& sizes, const Tensor& other) {
    if (!other.defined()) return false;
    for (const int64_t axis : VaryingAxes(other))
      if (sizes[static_cast<size_t>(axis)] == 1) return true;
    return false;
  };
  const bool a_misses = misses(a_sizes, b), b_misses = misses(b_sizes, a);
  if (a_misses && b_misses) {  // one tensor cannot carry both
    const auto axes = std::views::iota(int64_t{0}, a.dim());
    const auto shared = [&](int64_t axis) { return a.size(axis) > 1 && b.size(axis) > 1; };
    const bool all_units = a.gt(0).all().item<bool>() && b.gt(0).all().item<bool>();
    if (all_units && std::ranges::any_of(axes, shared)) {  // dims that attend to each other: heads
      Tensor a_heads = a, b_heads = b;
      for (const int64_t axis : axes)
        if (!shared(axis)) {
          a_heads = Together(c, a_heads, axis);
          b_heads = Together(c, b_heads, axis);
        }
      return Meet(c, a_heads, a_sizes, b_heads, b_sizes);
    }
    // The first stays a cut, unless it has far fewer or is of whole heads alone.
    const bool first =
        AreSlabs(c, a) != AreSlabs(c, b) ? AreSlabs(c, b) : 2 * a.numel() >= b.numel();
    const Tensor &stays = first ? a : b, &goes = first ? b : a;
    const std::vector<int64_t>& sizes = first ? b_sizes : a_sizes;
    const std::string reason = Str(c.where(), ": outer product of two cuts");
    std::vector<int64_t> common;
    for (const int64_t axis : VaryingAxes(stays))
      if (sizes[static_cast<size_t>(axis)] > 1) common.push_back(axis);
    c.t.PinAll(goes, reason);
    PinSlabs(c, stays, common, reason);
    return stays;
  }
  if (b_misses) return MeetBroadcast(c, a, b, b_sizes);
  if (a_misses) return MeetBroadcast(c, b, a, a_sizes);
  const Tensor met = UnionElements(c, a, b);
  return VaryingAxes(met).size() > 1 ? c.t.Canonical(met) : met;
}

void AddRules(LabelRules& rules, LabelRule rule, const std::string& names) {
  for (const std::string& name : Words(names, "aten::")) rules[name] = rule;
}

void ApplyLabelRule(LabelTracer& tracer, int32_t op_index) {
  static const auto* rules = [] {
    auto* table = new LabelRules();
    AddElementwiseRules(*table);
    AddMovementRules(*table);
    AddPickingRules(*table);
    AddContractionRules(*table);
    AddProductRules(*table);
    AddNormRules(*table);
    AddRecurrentRules(*table);
    AddSpectralRules(*table);
    return table;
  }();
  const Op& op = tracer.network().graph.ops[static_cast<size_t>(op_index)];
  if (op.outputs.empty()) return;  // an assertion: computes nothing
  const Call call{tracer, op_index, op};
  const auto rule = rules->find(call.name());
  if (rule == rules->end())
    Opaque(call);
  else
    rule->second(call);
  const std::vector<Use> uses = UsesOf(tracer.network().graph.ops[static_cast<size_t>(op_index)]);
  if (std::ranges::none_of(op.outputs, [&](ValueId output) {
        return tracer.labels(output).defined() || tracer.IsMovedStored(output);
      }))
    for (const Use& use : uses)
      if (!tracer.IsKnown(use.value) && !IgnoresNumbers(op, use))
        tracer.SetRigid(use.value, op_index);
  if (!uses.empty() &&
      std::ranges::all_of(uses, [&](const Use& use) { return tracer.IsFree(use.value); }))
    for (const ValueId output : op.outputs) tracer.SetFree(output);
}

}  // namespace espalier

#include <ATen/ATen.h>

#include <algorithm>

#include "env/space/label_rules.h"

// Normalisation. Statistics per channel leave units apart; statistics over channels may be cut too,
// but then they are those of the kept channels: recorded as norms.

namespace espalier {
namespace {

/// Coordinates of a stored tensor of one axis, or of one computed from such (weight + 1).
std::vector<int64_t> IdsOfVector(const Call& c, ValueId value) {
  if (c.t.IsStored(value))
    return LabelTracer::Ids(
        c.t.StoredAxis(value, 0, MemberRole::kChannel, false, c.op.module_path));
  c.t.Usable(value, c.op.module_path);
  return c.t.AxisIds(value, 0, c.where());
}

/// Ties per-channel tensors with the labels along an axis. False when one of them is computed.
bool TieChannels(const Call& c, const std::vector<int64_t>& ids,
                 std::initializer_list<const char*> names) {
  for (const char* name : names) {
    const ValueId stored = c.op.ValueArg(name);
    if (stored == kNoValue) continue;
    if (!c.t.IsFree(stored) || c.rank(stored) != 1) return false;
    Tie(c, ids, IdsOfVector(c, stored));
  }
  return true;
}

void PerChannel(const Call& c) {  // batch_norm, instance_norm
  const ValueId input = c.op.ValueArg("input");
  const bool labelled = Data(c, input).defined();
  const std::vector<int64_t> ids = c.t.AxisIds(input, 1, c.where());
  if (!TieChannels(c, ids, {"weight", "bias", "running_mean", "running_var"})) return Opaque(c);
  if (labelled) c.t.Set(c.out(), LabelTracer::Along(c.out_rank(), 1, ids));
}

void LastAxes(const Call& c) {  // layer_norm, rms_norm
  const ValueId input = c.op.ValueArg("input");
  const Tensor ids = Data(c, input);
  if (!ids.defined()) {
    for (const Use& use : UsesOf(c.op)) c.t.SetRigid(use.value, c.index);
    return;
  }
  const auto shape = c.op.Constant("normalized_shape").toIntVector();
  const int64_t rank = c.rank(input), first = rank - static_cast<int64_t>(shape.size());
  bool over_units = false;
  for (const int64_t axis : VaryingAxes(ids)) over_units = over_units || axis >= first;
  if (over_units) {
    if (shape.size() != 1) return Opaque(c);
    // One weight serves all places, so labels that also run elsewhere (heads) meet in it.
    const bool weighted = c.op.ValueArg("weight") != kNoValue;
    if (weighted) {
      const ValueId weight = c.op.ValueArg("weight");
      const ValueId bias = c.op.ArgIndex("bias") >= 0 ? c.op.ValueArg("bias") : kNoValue;
      if (!c.t.IsFree(weight) || (bias != kNoValue && !c.t.IsFree(bias))) return Opaque(c);
      for (const ValueId free : {weight, bias}) {
        if (free == kNoValue) continue;
        const Tensor own = LabelTracer::Along(rank, rank - 1, IdsOfVector(c, free));
        const auto both = at::broadcast_tensors({ids, own});
        const Tensor x = both[0].contiguous(), y = both[1].contiguous();
        for (int64_t i = 0; i < x.numel(); ++i) {
          const int64_t label = x.const_data_ptr<int64_t>()[i];
          const int64_t coordinate = y.const_data_ptr<int64_t>()[i];
          c.t.Union(label, coordinate);
          if (label < 0)
            c.t.Pin(coordinate, Str(c.where(), ": normalises data that cannot be cut"));
        }
      }
    }
    c.t.AddNorm(c.index, c.op.ArgIndex("input"), ids);
  }
  c.t.Set(c.out(), c.t.Canonical(ids));
}

void GroupNorm(const Call& c) {
  const ValueId input = c.op.ValueArg("input");
  if (!Data(c, input).defined()) return;
  const std::vector<int64_t> ids = c.t.AxisIds(input, 1, c.where());
  if (!TieChannels(c, ids, {"weight", "bias"})) return Opaque(c);
  if (c.op.Constant("num_groups").toInt() == std::ssize(ids))  // each channel by itself
    return c.t.Set(c.out(), LabelTracer::Along(c.out_rank(), 1, ids));
  c.t.AddRuns(ids, c.op.Constant("num_groups").toInt(), c.where());
  const Tensor labels = LabelTracer::Along(c.out_rank(), 1, ids);
  c.t.AddNorm(c.index, c.op.ArgIndex("input"), labels);
  c.t.Set(c.out(), labels);
}

}  // namespace

void AddNormRules(LabelRules& rules) {
  AddRules(rules, PerChannel, "batch_norm instance_norm");
  AddRules(rules, LastAxes, "layer_norm rms_norm");
  AddRules(rules, GroupNorm, "group_norm");
}

}  // namespace espalier

#include "env/space/stacked_layer.h"

#include <ATen/ATen.h>

#include <numeric>

namespace espalier {

bool LabelTracer::IsPickedStack(ValueId value, int64_t in, int64_t out) const {
  if (!IsMovedStored(value)) return false;
  const Origin columns = OriginOf(value, in), rows = OriginOf(value, out);
  return columns.stored != kNoValue && rows.stored != kNoValue && columns.axis > 0 &&
         rows.axis > 0 && !FindElements(StoredName(rows.stored));
}

bool LabelTracer::IsStack(ValueId value, int64_t stack, int64_t axis) const {
  const Origin along = OriginOf(value, axis), blocks = OriginOf(value, stack);
  if (along.stored == kNoValue || blocks.stored == kNoValue || blocks.axis != 0) return false;
  std::vector<int64_t> all(StoredSizes(StoredName(blocks.stored))[0]);
  std::iota(all.begin(), all.end(), 0);
  return blocks.places == all && !FindElements(StoredName(along.stored));
}

std::vector<int64_t> LabelTracer::StackIds(ValueId value, int64_t stack, int64_t axis, bool apart,
                                           MemberRole role, bool is_root,
                                           const std::string& layer) {
  if (!IsStack(value, stack, axis)) return {};
  const Origin origin = OriginOf(value, axis);
  const auto stored = StoredSizes(StoredName(origin.stored));
  const int64_t blocks = apart ? stored[0] : 1, size = stored[static_cast<size_t>(origin.axis)];
  const int64_t first =
      StoredAxis(origin.stored, origin.axis, role, is_root, layer, blocks, blocks * size).first;
  std::vector<int64_t> ids;
  for (int64_t block = 0; block < blocks; ++block)
    for (const int64_t place : origin.places) ids.push_back(first + block * size + place);
  return ids;
}

bool RunStackedLayer(const Call& c, const StackedLayer& l) {
  if (c.ids(l.weight).defined() || c.t.IsFree(l.input)) return false;
  if (!HoldsNumbers(c.t.MetaOf(l.input).dtype)) return false;
  const bool picked = !c.t.IsStack(l.weight, l.stack, l.in);
  if (!(picked ? c.t.IsPickedStack(l.weight, l.in, l.out) : c.t.IsStack(l.weight, l.stack, l.out)))
    return false;
  const Tensor labels = c.ids(l.input);
  bool reads = false, apart = false;
  if (labels.defined()) {
    for (const int64_t axis : VaryingAxes(labels)) {
      if (axis != l.input_in && axis != l.input_stack) return false;
      (axis == l.input_in ? reads : apart) = true;
    }
    if (!reads || (apart && picked)) return false;  // whole slices, or one unit for all
  }
  const auto along = [&](int64_t axis, bool each, MemberRole role) {
    const bool is_root = role == MemberRole::kProducer;
    return picked ? c.t.WeightIds(l.weight, axis, role, is_root, c.op.module_path)
                  : c.t.StackIds(l.weight, l.stack, axis, each, role, is_root, c.op.module_path);
  };
  const int64_t slices = c.t.sizes(l.weight)[static_cast<size_t>(l.stack)];
  if (reads) {
    const Tensor ordered = apart ? labels.movedim({l.input_stack, l.input_in}, {0, 1}) : labels;
    const Tensor flat = ordered.reshape({-1}).contiguous();
    const int64_t* data = flat.const_data_ptr<int64_t>();
    const std::vector<int64_t> ids(data, data + flat.numel());
    const auto columns = along(l.in, apart, MemberRole::kConsumer);
    Tie(c, ids, columns);
    if (apart) c.t.AddRuns(columns, slices, c.where());
    c.t.AddRead(c.index, l.argument, l.element, labels);
  }
  const bool stays = l.output_stack >= 0 && !picked;
  const auto rows = along(l.out, stays, MemberRole::kProducer);
  if (!stays) {
    SetFresh(c, l.output_out, rows);
    return true;
  }
  c.t.AddRuns(rows, slices, c.where());
  std::vector<int64_t> shape(static_cast<size_t>(c.out_rank()), 1);
  Tensor made = LabelTracer::Make(rows, {slices, static_cast<int64_t>(rows.size()) / slices});
  if (l.output_stack > l.output_out) made = made.t().contiguous();
  shape[static_cast<size_t>(l.output_stack)] = slices;
  shape[static_cast<size_t>(l.output_out)] = static_cast<int64_t>(rows.size()) / slices;
  c.t.Set(c.out(), made.view(shape));
  return true;
}

}  // namespace espalier

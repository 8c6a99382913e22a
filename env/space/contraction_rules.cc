#include <ATen/ATen.h>

#include <algorithm>
#include <set>
#include <string>

#include "env/space/label_rules.h"

// Operators that sum over an axis: what is summed over is read there, and fresh units are born.

namespace espalier {
namespace {

/// The input of a layer that runs along `axis`: ties its columns and records the read. False when
/// the labels run along other axes only; then the layer mixes rigid data for each unit on its own.
bool ReadAxis(const Call& c, ValueId input, int64_t axis, const std::vector<int64_t>& columns) {
  Data(c, input);
  const Tensor& labels = c.ids(input);
  if (labels.defined() && labels.size(axis) == 1 && !VaryingAxes(labels).empty()) {
    for (const int64_t column : columns)
      c.t.Pin(column, Str(c.where(), ": reads data that cannot be cut"));
    return false;
  }
  const std::vector<int64_t> ids = c.t.AxisIds(input, axis, c.where());
  Tie(c, ids, columns);
  for (const Use& use : UsesOf(c.op))
    if (use.value == input) {
      c.t.AddRead(c.index, use.arg, use.element, LabelTracer::Along(c.rank(input), axis, ids));
      break;
    }
  return true;
}

/// Output of a layer with `rows` along `axis` of an input whose labels may run along other axes.
void Produce(const Call& c, ValueId input, bool reads_axis, int64_t axis,
             const std::vector<int64_t>& rows) {
  if (reads_axis) return SetFresh(c, axis, rows);
  for (const int64_t row : rows)
    c.t.Pin(row, Str(c.where(), ": its input is prunable along another axis"));
  c.t.Set(c.out(), c.ids(input));
}

/// A cut that runs over space alone: a kernel of one place mixes the channels of each on its own.
void OverSpace(const Call& c, ValueId input, ValueId weight, bool transposed) {
  const auto stride = c.op.Constant("stride").toIntVector();
  for (const int64_t axis : VaryingAxes(c.ids(input))) {
    const auto at = static_cast<size_t>(axis);
    const int64_t step = stride.size() == 1 ? stride[0] : stride[at - 2];
    if (c.t.sizes(weight)[at] != 1 || step != 1 || c.out_sizes()[at] != c.t.sizes(input)[at])
      return PinInputs(c, Str(c.where(), ": cut runs over space"));
  }
  for (const int64_t axis : {0, 1}) {
    const bool rows = axis == (transposed ? 1 : 0);
    const MemberRole role = rows ? MemberRole::kProducer : MemberRole::kConsumer;
    for (const int64_t id : c.t.WeightIds(weight, axis, role, rows, c.op.module_path))
      c.t.Pin(id, Str(c.where(), ": its input is prunable along another axis"));
  }
  c.t.Set(c.out(), c.ids(input));
}

void Convolution(const Call& c) {
  const ValueId input = c.op.ValueArg("input"), weight = c.op.ValueArg("weight");
  const bool transposed =
      c.name().find("transpose") != std::string::npos ||
      (c.op.ArgIndex("transposed") >= 0 && c.op.Constant("transposed").toBool());
  if (c.rank(input) != c.rank(weight)) return Opaque(c);  // no batch axis
  const int64_t groups = c.op.Constant("groups").toInt();
  const int64_t in = c.t.sizes(input)[1], out = c.out_sizes()[1];
  const bool depthwise = groups > 1 && groups == in;
  // A weight that was moved around since is one of whole axes only.
  if (!c.t.IsStored(weight) && !(c.t.IsMovedStored(weight) && (groups == 1 || depthwise)))
    return Opaque(c);
  const std::string& layer = c.op.module_path;
  // Labels that also run over space meet in the kernel: per channel they become one.
  if (c.ids(input).defined() && !VaryingAxes(c.ids(input)).empty() && c.ids(input).size(1) == 1)
    return OverSpace(c, input, weight, transposed);
  if (depthwise) {  // out rows follow the inputs, in blocks of out / in
    const std::vector<int64_t> ids = c.t.AxisIds(input, 1, c.where());
    if (transposed && out != in) return Opaque(c);
    const auto rows = c.t.WeightIds(weight, 0, MemberRole::kChannel, false, layer);
    if (rows.empty()) return Opaque(c);
    std::vector<int64_t> repeated;
    for (int64_t row = 0; row < out; ++row)
      repeated.push_back(ids[static_cast<size_t>(row / (out / in))]);
    Tie(c, repeated, rows);
    TieBias(c, c.op.ValueArg("bias"), rows);
    SetFresh(c, 1, rows);
    return;
  }
  // A transposed convolution's weight is [in, out / groups, ...]: the axes change places.
  const int64_t in_axis = transposed ? 0 : 1, out_axis = transposed ? 1 : 0;
  const auto along = [&](int64_t axis, MemberRole role, bool is_root, int64_t blocks,
                         int64_t count) {
    if (groups == 1) return c.t.WeightIds(weight, axis, role, is_root, layer);
    return LabelTracer::Ids(c.t.StoredAxis(weight, axis, role, is_root, layer, blocks, count));
  };
  const auto columns = along(in_axis, MemberRole::kConsumer, false, transposed ? 1 : groups, in);
  const auto rows = along(out_axis, MemberRole::kProducer, true, transposed ? groups : 1, out);
  if (columns.empty() || rows.empty()) return Opaque(c);
  ReadAxis(c, input, 1, columns);
  c.t.AddRuns(columns, groups, c.where());
  c.t.AddRuns(rows, groups, c.where());
  TieBias(c, c.op.ValueArg("bias"), rows);
  SetFresh(c, 1, rows);
}

}  // namespace

void Dense(const Call& c, ValueId input, ValueId weight, ValueId bias, int64_t in) {
  const std::string& layer = c.op.module_path;
  if (c.rank(weight) != 2) return Opaque(c);
  const auto columns = c.t.WeightIds(weight, in, MemberRole::kConsumer, false, layer);
  const auto rows = c.t.WeightIds(weight, 1 - in, MemberRole::kProducer, true, layer);
  if (columns.empty() || rows.empty()) return Opaque(c);
  const int64_t last = c.rank(input) - 1;
  const bool reads = ReadAxis(c, input, last, columns);
  TieBias(c, bias, rows);
  Produce(c, input, reads, last, rows);
}

namespace {

void Linear(const Call& c) {
  Dense(c, c.op.ValueArg("input"), c.op.ValueArg("weight"), c.op.ValueArg("bias"), 1);
}

/// embedding(weight [V, D], indices): columns are born here; the vocabulary stays.
void Embedding(const Call& c) {
  const ValueId weight = c.op.ValueArg("weight");
  if (!c.t.IsStored(weight) || c.ids(weight).defined()) return Opaque(c);
  SetFresh(c, c.out_rank() - 1,
           c.t.WeightIds(weight, 1, MemberRole::kProducer, true, c.op.module_path));
}

/// index_add(trunk, dim, index, branch): the branch's channels are named by a stored index list, so
/// they can go one by one; the trunk keeps its width, since the list counts in its coordinates.
void IndexAdd(const Call& c) {
  const ValueId trunk = c.op.ValueArg("self"), branch = c.op.ValueArg("source");
  const ValueId index = c.op.ValueArg("index");
  if (!c.t.IsStored(index)) return Opaque(c);
  const int64_t dim = c.Dim("dim", c.out_rank());
  const std::string reason = "residual trunk that keeps its width (decoupled branches)";
  const auto columns = c.t.WeightIds(index, 0, MemberRole::kConsumer, false, c.op.module_path);
  if (!ReadAxis(c, branch, dim, columns)) c.t.PinAll(c.ids(branch), reason);
  c.t.PinAll(c.ids(trunk), reason);
}

/// max or min along an axis that is asked where it found the entry, too.
bool FindsPlaces(const Call& c) {
  if (c.op.outputs.size() < 2 || (c.name() != "aten::max" && c.name() != "aten::min")) return false;
  const Graph& graph = c.t.network().graph;
  const ValueId places = c.op.outputs[1];
  return std::ranges::count(graph.outputs, places) > 0 ||
         std::ranges::any_of(graph.ops, [&](const Op& op) {
           return std::ranges::count(UsesOf(op), places, &Use::value) > 0;
         });
}

/// Sums over axes: a removed unit adds nothing, so sums are exact; a mean's divisor is the width,
/// so a mean over units is a statistic of the kept ones, as are variance, maximum and minimum.
void Reduce(const Call& c) {
  const ValueId input = c.op.ValueArg("self");
  const Tensor ids = c.ids(input);
  if (!ids.defined()) return;
  const c10::IValue* dims = c.Constant("dim");
  if (!dims || dims->isNone()) return Opaque(c);
  std::vector<int64_t> reduced =
      dims->isInt() ? std::vector<int64_t>{dims->toInt()} : dims->toIntVector();
  if (reduced.empty()) return Opaque(c);
  const int64_t rank = c.rank(input);
  for (int64_t& axis : reduced) axis = axis < 0 ? axis + rank : axis;
  bool over_units = false;
  for (const int64_t axis : reduced) over_units = over_units || ids.size(axis) > 1;
  if (over_units) {
    static const std::set<std::string> kSums = {"aten::sum", "aten::linalg_vector_norm"};
    static const std::set<std::string> kStatistics = {
        "aten::mean", "aten::var",  "aten::std", "aten::var_mean", "aten::std_mean",
        "aten::amax", "aten::amin", "aten::max", "aten::min"};
    const bool statistic = kStatistics.contains(c.name()) && !FindsPlaces(c);
    if (!statistic && !kSums.contains(c.name()))
      return PinInputs(c, Str(c.where(), ": reduces over a prunable axis"));
    c.t.AddRead(c.index, 0, 0, ids);
    if (statistic) c.t.AddNorm(c.index, 0, ids);
  }
  Tensor left = Remaining(c, ids, reduced);
  if (!left.defined()) return;
  if (!c.op.Constant("keepdim").toBool()) {
    std::sort(reduced.rbegin(), reduced.rend());
    for (const int64_t axis : reduced) left = left.squeeze(axis);
  }
  for (const ValueId output : c.op.outputs) c.t.Set(output, left);
}

}  // namespace

void AddContractionRules(LabelRules& rules) {
  AddRules(rules, Convolution,
           "conv1d conv2d conv3d convolution _convolution conv_transpose1d conv_transpose2d "
           "conv_transpose3d");
  AddRules(rules, Linear, "linear");
  AddRules(rules, Embedding, "embedding");
  AddRules(rules, IndexAdd, "index_add");
  AddRules(rules, Reduce,
           "mean sum amax amin max min argmax var std var_mean std_mean prod linalg_vector_norm "
           "logsumexp any all");
}

}  // namespace espalier

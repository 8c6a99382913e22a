#include "env/latency/op_calls.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "env/base/error.h"
#include "env/base/rng.h"
#include "env/base/words.h"
#include "env/cost/axis_counts.h"
#include "env/graph/executor.h"
#include "env/graph/schema_writes.h"

namespace espalier {
namespace {

/// Operators that multiply matrices of which none need be stored.
bool IsProduct(const std::string& name) {
  static const std::set<std::string> kNames =
      Words("matmul mm bmm addmm baddbmm einsum scaled_dot_product_attention", "aten::");
  return kNames.contains(name);
}

/// Strides of other sizes in the same order of axes. Gaps between axes (a part of a wider tensor)
/// stay as wide in proportion; an axis that is expanded stays so.
std::vector<int64_t> StridesLike(const std::vector<int64_t>& sizes,
                                 const std::vector<int64_t>& strides,
                                 const std::vector<int64_t>& new_sizes) {
  std::vector<size_t> order(sizes.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return strides[a] != strides[b] ? strides[a] < strides[b] : a > b;
  });
  std::vector<int64_t> made(sizes.size(), 0);
  double dense = 1, new_dense = 1;
  for (const size_t axis : order) {
    if (strides[axis] == 0) continue;
    const double gap = std::max(1.0, static_cast<double>(strides[axis]) / dense);
    made[axis] = std::llround(gap * new_dense);
    dense = gap * dense * static_cast<double>(sizes[axis]);
    new_dense = static_cast<double>(made[axis] * new_sizes[axis]);
  }
  return made;
}

bool Proportional(const AxisCount& a, const AxisCount& b, std::span<const int64_t> units) {
  Rng rng(0, 0, "latency/axes");
  double ratio = 0;
  for (int draw = 0; draw < 3; ++draw) {
    std::vector<double> kept;
    for (const int64_t count : units) kept.push_back(rng.Uniform(1, static_cast<double>(count)));
    const double now = CountOf(a, units, kept) / CountOf(b, units, kept);
    if (draw > 0 && std::abs(now / ratio - 1) > 1e-9) return false;
    ratio = now;
  }
  return true;
}

Network ForInference(const Space& space, at::ScalarType dtype, at::Device device,
                     std::map<std::string, InferenceRewrite::Origin>& origins) {
  Network moved = space.network();
  moved.store = moved.store.To(device);
  InferenceRewrite rewrite(std::move(moved));
  rewrite.ApplyAll(dtype);
  origins = rewrite.origins();
  return rewrite.Take();
}

std::string KeyOf(const Tensor& tensor) {
  std::string key = Str(c10::toString(tensor.scalar_type()), tensor.sizes());
  if (!tensor.is_contiguous()) key += Str("/", tensor.strides());
  return key;
}

}  // namespace

OpCalls::OpCalls(const Space& space, int64_t batch, at::ScalarType dtype, at::Device device)
    : space_(space), device_(device) {
  const at::NoGradGuard no_grad;
  for (const Group& group : space.groups()) units_.push_back(group.units);
  full_.assign(units_.begin(), units_.end());
  std::map<std::string, InferenceRewrite::Origin> origins;
  network_ = ForInference(space, dtype, device, origins);
  Record(batch, dtype);
  FollowCuts(origins);

  std::vector<int64_t> fewer;  // about half of every group
  for (const Group& group : space.groups()) fewer.push_back(group.Keepable((group.units + 1) / 2));
  edited_.assign(network_.graph.ops.size(), false);
  for (const ArgEdit& edit : EditsAt(fewer)) edited_[static_cast<size_t>(edit.op)] = true;
  for (size_t op = 0; op < network_.graph.ops.size(); ++op) facts_.push_back(FactsOf(op));
  FollowBranches(origins);
}

void OpCalls::Record(int64_t batch, at::ScalarType dtype) {
  layouts_.resize(network_.graph.values.size());
  std::vector<Tap> taps;
  for (size_t id = 0; id < layouts_.size(); ++id)
    taps.push_back({static_cast<ValueId>(id), [this, id](const Tensor& value) {
                      ValueLayout& layout = layouts_[id];
                      const bool whole = value.dim() == 0 && value.scalar_type() == at::kLong;
                      if (whole) layout.scalar = value.item<int64_t>();
                      layout.tensor = true;
                      layout.sizes = value.sizes().vec();
                      layout.strides = value.strides().vec();
                      layout.dtype = value.scalar_type();
                      layout.memory =
                          value.has_storage() ? value.storage().unsafeGetStorageImpl() : nullptr;
                    }});
  std::vector<Tensor> inputs;
  for (const Tensor& input : SampleInputs(network_, batch))
    inputs.push_back(PrepareInput(input.to(device_), dtype));
  const Executor executor(network_.graph);
  executor.Run(executor.Bind(network_.store), inputs, {.taps = taps});
}

/// How every size follows the kept counts: results and inputs as the Space says, stored tensors as
/// those they were made from.
void OpCalls::FollowCuts(const std::map<std::string, InferenceRewrite::Origin>& origins) {
  const Network& source = space_.network();
  std::map<std::string, size_t> stored;  // canonical name -> value of the space
  for (size_t id = 0; id < source.graph.values.size(); ++id)
    if (const std::string& target = source.graph.values[id].target; !target.empty())
      stored.try_emplace(source.store.Canonical(target), id);
  for (size_t id = 0; id < layouts_.size(); ++id) {
    ValueLayout& layout = layouts_[id];
    layout.axes.resize(layout.sizes.size());
    const std::string& target = network_.graph.values[id].target;
    const ValueShape* shape = nullptr;
    bool rows_only = false, keeps_rows = false;
    if (target.empty()) {
      if (id < space_.values().size()) shape = &space_.values()[id];
    } else {
      const auto origin = origins.find(network_.store.Canonical(target));
      const std::string name = origin != origins.end()    ? origin->second.source
                               : source.store.Has(target) ? source.store.Canonical(target)
                                                          : "";
      if (origin != origins.end()) {
        rows_only = origin->second.rows_only;
        keeps_rows = origin->second.keeps_rows;
      }
      if (const auto found = stored.find(name); found != stored.end())
        shape = &space_.values()[found->second];
    }
    if (shape == nullptr) continue;
    for (size_t axis = 0; axis < layout.axes.size() && axis < shape->axes.size(); ++axis)
      if (!(axis == 0 ? keeps_rows : rows_only)) layout.axes[axis] = shape->axes[axis];
  }
}

/// An op goes with a branch when it makes what only the branch needs, reads the branch's weights (a
/// convolution into which the addition was fused), or is the addition alone.
void OpCalls::FollowBranches(const std::map<std::string, InferenceRewrite::Origin>& origins) {
  const Graph& source = space_.network().graph;
  for (const Branch& branch : space_.branches()) {
    std::set<ValueId> made;
    for (const int32_t op : branch.ops)
      for (const ValueId output : source.ops[static_cast<size_t>(op)].outputs) made.insert(output);
    const ValueId sum = source.ops[static_cast<size_t>(branch.op)].outputs.front();
    const std::set<std::string> weights(branch.stored.begin(), branch.stored.end());
    const auto belongs = [&](const Op& op) {
      bool reads_own = false, reads_other = false;
      for (const Use& use : UsesOf(op)) {
        const std::string& target = network_.graph.values[static_cast<size_t>(use.value)].target;
        if (target.empty()) continue;
        const std::string name = network_.store.Canonical(target);
        const auto origin = origins.find(name);
        const bool own = weights.contains(origin == origins.end() ? name : origin->second.source);
        (own ? reads_own : reads_other) = true;
      }
      return reads_own || std::ranges::any_of(op.outputs, [&](ValueId value) {
               return made.contains(value) || (value == sum && !reads_other);
             });
    };
    for (size_t op = 0; op < facts_.size(); ++op)
      if (belongs(network_.graph.ops[op])) facts_[op].branches.push_back(branch.group);
  }
}

int64_t OpCalls::SizeAt(const ValueLayout& layout, size_t axis,
                        std::span<const double> kept) const {
  const AxisCount& count = layout.axes[axis];
  if (count.terms.empty()) return layout.sizes[axis];
  // In proportion: the batch, or blocks of a grouped convolution, may share the axis.
  return std::max<int64_t>(
      1, std::llround(static_cast<double>(layout.sizes[axis]) * CountOf(count, units_, kept) /
                      CountOf(count, units_, full_)));
}

Tensor OpCalls::Make(ValueId id, std::span<const double> kept) const {
  const ValueLayout& layout = layouts_[static_cast<size_t>(id)];
  std::vector<int64_t> sizes;
  for (size_t axis = 0; axis < layout.sizes.size(); ++axis)
    sizes.push_back(SizeAt(layout, axis, kept));
  const std::vector<int64_t> strides = StridesLike(layout.sizes, layout.strides, sizes);
  std::vector<int64_t> own = sizes;  // what an expanded tensor, such as a class token, really holds
  for (size_t axis = 0; axis < own.size(); ++axis)
    if (strides[axis] == 0) own[axis] = std::min<int64_t>(own[axis], 1);
  const Tensor tensor =
      at::empty_strided(own, strides, at::TensorOptions().dtype(layout.dtype).device(device_));
  // Positive, for logarithms and roots, and never so small that arithmetic slows down.
  if (at::isFloatingType(layout.dtype)) return tensor.fill_(0.5).expand(sizes);
  const std::string& target = network_.graph.values[static_cast<size_t>(id)].target;
  if (!target.empty() && own == layout.sizes) return tensor.copy_(network_.store.Get(target));
  // Indices: of the units that stay when stored; of computed ones zero is always legal.
  if (!target.empty() && own.size() == 1) return at::arange(own[0], tensor.options());
  return tensor.zero_().expand(sizes);
}

const std::vector<ArgEdit>& OpCalls::EditsAt(const std::vector<int64_t>& kept) const {
  const auto known = edits_.find(kept);
  if (known != edits_.end()) return known->second;
  Plan plan;
  plan.edits = FollowLiterals(space_, UnitMask(space_, SelectFirst(space_, kept)));
  return edits_.emplace(kept, ExecutorEdits(network_.graph, plan)).first->second;
}

std::string OpCalls::Name(size_t op) const {
  const Op& described = network_.graph.ops[op];
  return Str(described.target(), " at '", described.module_path, "'");
}

OpCalls::Facts OpCalls::FactsOf(size_t index) const {
  const Op& op = network_.graph.ops[index];
  Facts facts;
  facts.heavy = IsProduct(op.handle.operator_name().name);
  std::vector<size_t> values;
  std::set<const void*> read;
  for (const Use& use : UsesOf(op)) {
    const ValueLayout& layout = layouts_[static_cast<size_t>(use.value)];
    if (!layout.tensor) continue;
    values.push_back(static_cast<size_t>(use.value));
    read.insert(layout.memory);
    const bool stored = !network_.graph.values[static_cast<size_t>(use.value)].target.empty();
    if (stored && layout.sizes.size() >= 2 && at::isFloatingType(layout.dtype)) facts.heavy = true;
  }
  facts.measured = !op.outputs.empty();
  bool all_views = !op.outputs.empty() && !WritesAny(op.handle.schema());
  for (const ValueId output : op.outputs) {
    const ValueLayout& layout = layouts_[static_cast<size_t>(output)];
    values.push_back(static_cast<size_t>(output));
    facts.measured = facts.measured && layout.tensor && !layout.scalar;
    all_views = all_views && read.contains(layout.memory);
  }
  facts.view = all_views;
  if (!facts.measured || facts.view) return facts;

  std::set<int32_t> groups;
  for (const size_t id : values) {
    LatencyModel::Term elements;
    for (size_t axis = 0; axis < layouts_[id].axes.size(); ++axis) {
      const AxisCount& count = layouts_[id].axes[axis];
      elements.coefficient *= static_cast<double>(layouts_[id].sizes[axis]);
      if (count.terms.empty()) continue;
      groups.merge(GroupsOf(count));
      auto known = std::find_if(facts.axes.begin(), facts.axes.end(), [&](const AxisCount& other) {
        return Proportional(count, other, units_);
      });
      if (known == facts.axes.end()) known = facts.axes.insert(known, count);
      elements.coefficient /= CountOf(*known, units_, full_);
      elements.axes.push_back(static_cast<int32_t>(known - facts.axes.begin()));
    }
    facts.elements.push_back(std::move(elements));
  }
  facts.groups.assign(groups.begin(), groups.end());
  return facts;
}

OpCall OpCalls::At(size_t index, const std::vector<int64_t>& kept) const {
  const std::vector<double> counts(kept.begin(), kept.end());
  const Op& op = network_.graph.ops[index];
  OpCall call;
  call.network.name = op.name;
  Graph& graph = call.network.graph;
  Op alone = op;
  call.key = op.target();
  std::map<ValueId, ValueId> places;
  const auto place = [&](ValueId id) -> ValueId {
    if (id == kNoValue) return kNoValue;
    const auto [known, fresh] = places.try_emplace(id, static_cast<ValueId>(graph.values.size()));
    if (fresh) {
      const std::string name = Str("a", graph.values.size());
      const bool stored = !network_.graph.values[static_cast<size_t>(id)].target.empty();
      const Tensor made = Make(id, counts);
      call.network.store.Add(name, made, StoreKind::kConstant);
      graph.values.push_back({name, ValueKind::kConstant, name, -1});
      if (!stored) call.fresh.push_back(name);
      call.key += Str(" ", stored ? "" : "*", KeyOf(made));
    } else {
      call.key += Str(" =", known->second);
    }
    return known->second;
  };
  const auto scalar = [&](ValueId id) {
    const auto& recorded = layouts_[static_cast<size_t>(id)].scalar;
    ESPALIER_CHECK(recorded, op.name, ": a size that is no number");
    return *recorded;
  };
  const auto convert = [&](const Arg& arg) -> Arg {
    if (const auto* value = std::get_if<ValueId>(&arg)) {
      if (*value != kNoValue && layouts_[static_cast<size_t>(*value)].scalar &&
          network_.graph.values[static_cast<size_t>(*value)].target.empty())
        return c10::IValue(scalar(*value));
      return place(*value);
    }
    if (const auto* list = std::get_if<ValueList>(&arg)) {
      ValueList placed;
      for (const ValueId id : list->ids) placed.ids.push_back(place(id));
      return placed;
    }
    if (const auto* scalars = std::get_if<ScalarList>(&arg)) {
      std::vector<int64_t> items;
      for (const auto& item : scalars->items)
        items.push_back(std::holds_alternative<int64_t>(item) ? std::get<int64_t>(item)
                                                              : scalar(std::get<ValueId>(item)));
      return c10::IValue(items);
    }
    return arg;
  };
  if (edited_[index])
    for (const ArgEdit& edit : EditsAt(kept))
      if (edit.op == static_cast<int32_t>(index))
        alone.args[static_cast<size_t>(edit.arg)] = edit.value;
  for (Arg& arg : alone.args) {
    arg = convert(arg);
    if (const auto* constant = std::get_if<c10::IValue>(&arg)) call.key += Str(" ", *constant);
  }
  for (ValueId& output : alone.outputs) {
    const auto id = static_cast<ValueId>(graph.values.size());
    graph.values.push_back({Str("r", id), ValueKind::kResult, "", 0});
    graph.outputs.push_back(id);
    output = id;
  }
  graph.ops.push_back(std::move(alone));
  return call;
}

}  // namespace espalier

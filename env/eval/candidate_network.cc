#include "env/eval/candidate_network.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <set>

#include "env/base/error.h"

namespace espalier {
namespace {

void Mix(uint64_t& hash, uint64_t value) {  // the step of FNV-1a on whole words, then a shuffle
  hash = (hash ^ value) * 0x100000001b3ULL;
  hash ^= hash >> 29;
}

constexpr uint64_t kHashStart = 0xcbf29ce484222325ULL;

uint64_t HashOf(const std::vector<KeptAxis>& axes) {
  uint64_t hash = kHashStart;
  for (const KeptAxis& axis : axes) {
    Mix(hash, static_cast<uint64_t>(axis.axis));
    for (const auto& list : axis.kept) {
      Mix(hash, list.size());
      for (const int64_t index : list) Mix(hash, static_cast<uint64_t>(index));
    }
  }
  return hash;
}

/// Sets the rows of axis 0 that are not kept to zero.
Tensor ZeroOtherRows(const Tensor& tensor, const std::vector<int64_t>& kept) {
  std::vector<int64_t> others;
  for (int64_t row = 0; row < tensor.size(0); ++row)
    if (!std::binary_search(kept.begin(), kept.end(), row)) others.push_back(row);
  return tensor.index_fill(0, at::tensor(others, at::kLong).to(tensor.device()), 0);
}

Network Rewritten(const Space& space, at::ScalarType dtype, at::Device device,
                  std::map<std::string, InferenceRewrite::Origin>& origins) {
  Network network = space.network();
  network.store = network.store.To(device);
  InferenceRewrite rewrite(std::move(network));
  std::set<std::string> additions;  // candidates leave branches out by their alpha
  for (const Branch& branch : space.branches())
    additions.insert(space.network().graph.ops[static_cast<size_t>(branch.op)].name);
  rewrite.Keep(std::move(additions));
  rewrite.ApplyAll(dtype);
  origins = rewrite.origins();
  return rewrite.Take();
}

}  // namespace

CandidateNetwork::CandidateNetwork(const Space& space, at::ScalarType dtype, at::Device device)
    : space_(space),
      network_(Rewritten(space, dtype, device, origins_)),
      executor_(network_.graph) {
  for (const Value& value : network_.graph.values) {
    const auto origin = origins_.find(value.target);
    if (origin != origins_.end() && origin->second.source.empty())
      throw Error(
          ErrorKind::kModel,
          Str("'", value.target, "' was spread over a wider trunk: candidates of a network ",
              "with such scatters are not evaluated in one graph"));
  }
}

InferenceRewrite::Origin CandidateNetwork::OriginOf(const std::string& name) const {
  if (const auto known = origins_.find(name); known != origins_.end()) return known->second;
  const ParameterStore& given = space_.network().store;
  return {given.Has(name) ? given.Canonical(name) : name};
}

CandidateNetwork::Kept CandidateNetwork::KeptOf(const std::string& name, const Plan& plan) const {
  const InferenceRewrite::Origin origin = OriginOf(name);
  Kept result{.source = origin.source, .axes = {}, .rows = {}};
  if (const auto kept = plan.kept.find(origin.source); kept != plan.kept.end())
    for (const KeptAxis& axis : kept->second) {
      if (axis.axis == 0 && origin.keeps_rows)
        result.rows = axis.kept.front();
      else if (axis.axis == 0 || !origin.rows_only)
        result.axes.push_back(axis);
    }
  return result;
}

CandidateNetwork::Slice CandidateNetwork::SliceOf(const std::string& name, const Plan& plan) const {
  const Tensor& full = network_.store.Get(name);
  const auto [source, axes, rows] = KeptOf(name, plan);
  const auto numbers = plan.renumbered.find(source);
  if (axes.empty() && rows.empty() && numbers == plan.renumbered.end()) return {full, 0};

  uint64_t hash = HashOf(axes);
  for (const int64_t row : rows) Mix(hash, static_cast<uint64_t>(row));
  if (numbers != plan.renumbered.end())
    for (const int64_t number : numbers->second) Mix(hash, static_cast<uint64_t>(number));
  {
    const std::lock_guard lock(mutex_);
    if (const auto found = slices_.find({name, hash}); found != slices_.end())
      return {found->second, hash};
  }
  Plan own;
  if (!axes.empty()) own.kept[name] = axes;
  if (numbers != plan.renumbered.end()) own.renumbered[name] = numbers->second;
  ParameterStore store;
  store.Add(name, full, StoreKind::kConstant);
  Tensor slice = SliceStore(store, own).Get(name);
  if (!rows.empty()) slice = ZeroOtherRows(slice, rows);
  if (full.dim() == 4 && full.is_contiguous(at::MemoryFormat::ChannelsLast))
    slice = slice.contiguous(at::MemoryFormat::ChannelsLast);

  const std::lock_guard lock(mutex_);
  const auto bytes = static_cast<int64_t>(slice.nbytes());
  if (cached_bytes_ + bytes > kCacheBytes) {
    slices_.clear();
    cached_bytes_ = 0;
  }
  if (bytes <= kCacheBytes && slices_.emplace(std::pair(name, hash), slice).second)
    cached_bytes_ += bytes;
  return {slice, hash};
}

CandidateNetwork::Bound CandidateNetwork::Bind(const Selection& selection) const {
  const at::NoGradGuard no_grad;
  const Plan plan = MakePlan(space_, selection);
  Bound bound;
  ParameterStore store = network_.store;  // shares what is not cut
  std::map<std::string, uint64_t> signatures;
  std::set<std::string> done;
  for (const Value& value : network_.graph.values) {
    if (value.target.empty() || !done.insert(store.Canonical(value.target)).second) continue;
    const Slice slice = SliceOf(store.Canonical(value.target), plan);
    if (slice.signature == 0) continue;
    store.Set(value.target, slice.tensor);
    signatures[store.Canonical(value.target)] = slice.signature;
    bound.bytes += static_cast<int64_t>(slice.tensor.nbytes());
  }
  const std::vector<ArgEdit> edits = ExecutorEdits(network_.graph, plan);
  bound.signature.assign(network_.graph.ops.size(), 0);
  const auto mix = [&](size_t op, uint64_t value) {
    uint64_t& signature = bound.signature[op];
    if (signature == 0) signature = kHashStart;
    Mix(signature, value);
  };
  for (size_t i = 0; i < network_.graph.ops.size(); ++i)
    for (const Use& use : UsesOf(network_.graph.ops[i])) {
      const std::string& target = network_.graph.values[static_cast<size_t>(use.value)].target;
      if (target.empty()) continue;
      const auto cut = signatures.find(store.Canonical(target));
      if (cut != signatures.end()) mix(i, cut->second + static_cast<uint64_t>(use.arg));
    }
  for (const LiteralEdit& edit : plan.edits) {
    const auto node = std::find_if(network_.graph.ops.begin(), network_.graph.ops.end(),
                                   [&](const Op& op) { return op.name == edit.node; });
    const auto op = static_cast<size_t>(node - network_.graph.ops.begin());
    for (const int64_t number : edit.to) mix(op, static_cast<uint64_t>(number));
  }
  bound.binding = executor_.Bind(store, edits);
  return bound;
}

}  // namespace espalier

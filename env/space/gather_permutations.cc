#include <ATen/ATen.h>

#include <algorithm>
#include <set>

#include "env/space/rewrite.h"
#include "env/space/space_builder.h"

namespace espalier {
namespace {

const std::set<std::string>& Movements() {
  static const std::set<std::string> kNames = {
      "aten::view",       "aten::reshape",      "aten::transpose",      "aten::permute",
      "aten::contiguous", "aten::clone",        "aten::flatten",        "aten::unflatten",
      "aten::swapaxes",   "aten::_unsafe_view", "aten::channel_shuffle"};
  return kNames;
}

/// The permutation of one axis that `places` (numbers of a tensor of `sizes`, moved around) amounts
/// to, with that axis; axis -1 when it is not one, or changes nothing.
std::pair<int64_t, Tensor> PermutationOf(const Tensor& places, const std::vector<int64_t>& sizes) {
  const Tensor straight = at::arange(places.numel(), at::kLong).view(sizes);
  for (size_t axis = 1; axis < sizes.size(); ++axis) {
    const auto dim = static_cast<int64_t>(axis);
    int64_t inner = 1;
    for (size_t d = axis + 1; d < sizes.size(); ++d) inner *= sizes[d];
    const Tensor rows = places.movedim(dim, 0).reshape({sizes[axis], -1}).select(1, 0);
    const Tensor order = rows.div(inner, "floor").remainder(sizes[axis]);
    if (at::equal(order, at::arange(sizes[axis], at::kLong))) continue;
    if (at::equal(straight.index_select(dim, order), places)) return {dim, order};
  }
  return {-1, {}};
}

}  // namespace

Network GatherPermutations(Network network, std::vector<ValueMeta>& meta) {
  Graph& graph = network.graph;
  const auto consumers = graph.Consumers();
  const at::NoGradGuard no_grad;
  const auto sizes = [&](ValueId id) -> const std::vector<int64_t>& {
    return meta[static_cast<size_t>(id)].sizes;
  };
  const auto is_movement = [&](int32_t index) {
    const Op& op = graph.ops[static_cast<size_t>(index)];
    return Movements().contains(op.handle.operator_name().name) &&
           std::holds_alternative<ValueId>(op.args[0]);
  };
  std::set<int32_t> used;
  const size_t count = graph.ops.size();
  for (size_t first = 0; first < count; ++first) {
    if (!is_movement(static_cast<int32_t>(first)) || used.contains(static_cast<int32_t>(first)))
      continue;
    const ValueId start = std::get<ValueId>(graph.ops[first].args[0]);
    if (start == kNoValue || sizes(start).size() < 2) continue;
    // The chain, as far as it has one reader each, up to where the sizes are last those it began
    // with: only there it can be a permutation.
    constexpr size_t kLongest = 6;
    std::vector<int32_t> chain = {static_cast<int32_t>(first)};
    size_t back = 0;  // length of the chain there
    for (;;) {
      const ValueId end = graph.ops[static_cast<size_t>(chain.back())].outputs.front();
      if (chain.size() > 1 && sizes(end) == sizes(start)) back = chain.size();
      const auto& readers = consumers[static_cast<size_t>(end)];
      if (chain.size() == kLongest || readers.size() != 1 || !is_movement(readers.front())) break;
      chain.push_back(readers.front());
    }
    if (back == 0) continue;
    chain.resize(back);
    int64_t numel = 1;
    for (const int64_t size : sizes(start)) numel *= size;
    Tensor places = at::arange(numel, at::kLong).view(sizes(start));
    int32_t found = -1;
    std::pair<int64_t, Tensor> permutation{-1, {}};
    size_t length = 0;
    while (length < chain.size() && found < 0) {
      const int32_t last = chain[length];
      const auto results = RunMovement(graph.ops[static_cast<size_t>(last)], places, meta);
      if (results.empty()) break;
      places = results.front();
      if (++length < 2 || places.sizes() != at::IntArrayRef(sizes(start))) continue;
      permutation = PermutationOf(places, sizes(start));
      if (permutation.first >= 0) found = last;
    }
    chain.resize(length);
    if (found < 0) continue;
    used.insert(chain.begin(), chain.end());
    Op& op = graph.ops[static_cast<size_t>(found)];
    const ValueId index =
        AddStored(network, (op.module_path.empty() ? op.name : op.module_path) + ".shuffle_index",
                  permutation.second.contiguous(), StoreKind::kBuffer);
    meta.push_back({permutation.second.sizes().vec(), at::kLong});
    op.handle = FindOperator("aten::index_select", "");
    op.args = {start, c10::IValue(permutation.first), index};
  }
  if (used.empty()) return network;
  // What only led to the gathers is not computed any more.
  std::set<ValueId> read(graph.outputs.begin(), graph.outputs.end());
  std::vector<bool> gone(graph.ops.size(), false);
  for (size_t i = graph.ops.size(); i-- > 0;) {
    gone[i] =
        used.contains(static_cast<int32_t>(i)) && !read.contains(graph.ops[i].outputs.front());
    if (gone[i])
      for (const ValueId output : graph.ops[i].outputs) meta[static_cast<size_t>(output)] = {};
    else
      for (const Use& use : UsesOf(graph.ops[i])) read.insert(use.value);
  }
  RemoveOps(graph, gone);
  return network;
}

}  // namespace espalier

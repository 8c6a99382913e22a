#include <ATen/ATen.h>

#include <algorithm>
#include <map>
#include <set>

#include "env/base/error.h"
#include "env/space/constants.h"
#include "env/space/rewrite.h"
#include "env/space/space_builder.h"

namespace espalier {
namespace {

/// The argument that holds the weight of a layer; kNoValue for other ops.
ValueId WeightOf(const Op& op) {
  static const std::map<std::string, const char*> kLayers = {
      {"aten::linear", "weight"},           {"aten::conv1d", "weight"},
      {"aten::conv2d", "weight"},           {"aten::conv3d", "weight"},
      {"aten::convolution", "weight"},      {"aten::_convolution", "weight"},
      {"aten::conv_transpose1d", "weight"}, {"aten::conv_transpose2d", "weight"},
      {"aten::conv_transpose3d", "weight"}, {"aten::addmm", "mat2"}};
  const auto layer = kLayers.find(op.handle.operator_name().name);
  return layer == kLayers.end() ? kNoValue : op.ValueArg(layer->second);
}

/// One stored tensor that was moved around is followed through its movements.
bool OnlyMoves(const Graph& graph, const std::set<int32_t>& ops) {
  static const std::set<std::string> kMoves = {
      "aten::view",    "aten::reshape",   "aten::transpose",    "aten::permute",
      "aten::t",       "aten::numpy_T",   "aten::contiguous",   "aten::clone",
      "aten::flatten", "aten::unflatten", "aten::squeeze",      "aten::unsqueeze",
      "aten::expand",  "aten::slice",     "aten::select",       "aten::narrow",
      "aten::chunk",   "aten::split",     "aten::flip",         "aten::alias",
      "aten::detach",  "aten::to",        "aten::unbind",       "aten::_to_copy",
      "aten::movedim", "aten::swapaxes",  "aten::index_select", "aten::split_with_sizes"};
  return std::ranges::all_of(ops, [&](int32_t op) {
    return kMoves.contains(graph.ops[static_cast<size_t>(op)].handle.operator_name().name);
  });
}

/// Weights that ops compute of stored tensors, by the value that holds one.
struct Computed {
  std::set<int32_t> ops;        // that make it
  std::vector<int32_t> layers;  // that read it as their weight
};

class WeightFolder {
 public:
  WeightFolder(Network network, std::vector<ValueMeta>& meta)
      : network_(std::move(network)), meta_(meta), consumers_(network_.graph.Consumers()) {
    const Graph& graph = network_.graph;
    for (size_t i = 0; i < graph.ops.size(); ++i) {
      const ValueId weight = WeightOf(graph.ops[i]);
      if (weight == kNoValue || graph.values[static_cast<size_t>(weight)].producer < 0) continue;
      if (!computed_.contains(weight)) {
        auto ops = OpsOfConstant(graph, weight);
        if (!ops || OnlyMoves(graph, *ops)) continue;
        computed_[weight].ops = std::move(*ops);
      }
      computed_[weight].layers.push_back(static_cast<int32_t>(i));
    }
    do {
      inside_.clear();
      for (const auto& [weight, found] : computed_)
        inside_.insert(found.ops.begin(), found.ops.end());
    } while (std::erase_if(computed_, [&](const auto& entry) { return ServesOthers(entry); }) > 0);
  }

  Network Run(std::vector<std::string>& folded) {
    if (computed_.empty()) return std::move(network_);
    const at::NoGradGuard no_grad;
    std::map<ValueId, Tensor> made;
    for (const auto& [weight, found] : computed_)
      made[weight] = Evaluate(network_, weight, found.ops);
    const std::vector<bool> gone = FindUnread();
    for (const auto& [weight, tensor] : made) {
      const ValueId stored = Store(weight, tensor);
      folded.push_back(network_.graph.values[static_cast<size_t>(stored)].target);
      for (const int32_t layer : computed_.at(weight).layers)
        for (Arg& arg : network_.graph.ops[static_cast<size_t>(layer)].args)
          if (const auto* id = std::get_if<ValueId>(&arg); id && *id == weight) arg = stored;
    }
    for (size_t i = 0; i < gone.size(); ++i)
      if (gone[i])
        for (const ValueId output : network_.graph.ops[i].outputs)
          meta_[static_cast<size_t>(output)] = {};
    RemoveOps(network_.graph, gone);
    RemoveStored(network_, [&](const std::string& name) {
      return unread_.contains(network_.store.Canonical(name));
    });
    return std::move(network_);
  }

 private:
  const std::string& Target(ValueId value) const {
    return network_.graph.values[static_cast<size_t>(value)].target;
  }

  /// Values that read a stored tensor, under any of its names.
  std::vector<ValueId> ReadersOf(const std::string& canonical) const {
    std::vector<ValueId> values;
    for (size_t id = 0; id < network_.graph.values.size(); ++id)
      if (const auto value = static_cast<ValueId>(id);
          !Target(value).empty() && network_.store.Canonical(Target(value)) == canonical)
        values.push_back(value);
    return values;
  }

  /// Most of the weight is stored for other ops, too (a table that is scaled to be the last layer):
  /// it stays computed, or there would be two of it.
  bool ServesOthers(const std::pair<const ValueId, Computed>& entry) const {
    const std::vector<int64_t>& sizes = meta_[static_cast<size_t>(entry.first)].sizes;
    int64_t elements = 1;
    for (const int64_t size : sizes) elements *= size;
    return std::ranges::any_of(SourcesOf(network_, entry.second.ops), [&](const std::string& name) {
      if (network_.store.Get(name).numel() * 2 < elements) return false;
      return !std::ranges::all_of(ReadersOf(name), [&](ValueId value) {
        return std::ranges::all_of(consumers_[static_cast<size_t>(value)],
                                   [&](int32_t op) { return inside_.contains(op); });
      });
    });
  }

  /// Ops that only lead to the weights; unread_: stored tensors that nothing else reads.
  std::vector<bool> FindUnread() {
    const Graph& graph = network_.graph;
    std::set<ValueId> read(graph.outputs.begin(), graph.outputs.end());
    std::vector<bool> gone(graph.ops.size(), false);
    for (size_t i = graph.ops.size(); i-- > 0;) {
      const Op& op = graph.ops[i];
      gone[i] = inside_.contains(static_cast<int32_t>(i)) &&
                std::ranges::none_of(op.outputs, [&](ValueId id) { return read.contains(id); });
      const bool is_layer = computed_.contains(WeightOf(op));
      for (const Use& use : UsesOf(op)) {
        if (!gone[i] && !(is_layer && use.value == WeightOf(op)))
          read.insert(use.value);
        else if (!Target(use.value).empty())
          unread_.insert(network_.store.Canonical(Target(use.value)));
      }
    }
    for (const ValueId id : read)
      if (!Target(id).empty()) unread_.erase(network_.store.Canonical(Target(id)));
    return gone;
  }

  /// In the place of the one source that has its shape, or as a new parameter.
  ValueId Store(ValueId weight, const Tensor& tensor) {
    const Computed& found = computed_.at(weight);
    std::vector<std::string> alike;
    for (const std::string& name : SourcesOf(network_, found.ops))
      if (network_.store.Get(name).sizes() == tensor.sizes() && unread_.contains(name))
        alike.push_back(name);
    if (alike.size() == 1) {
      unread_.erase(alike.front());
      network_.store.Set(alike.front(), tensor);
      return ReadersOf(alike.front()).front();
    }
    const Op& first = network_.graph.ops[static_cast<size_t>(found.layers.front())];
    meta_.push_back({tensor.sizes().vec(), tensor.scalar_type()});
    return AddStored(network_,
                     (first.module_path.empty() ? first.name : first.module_path) + ".weight",
                     tensor, StoreKind::kParameter);
  }

  Network network_;
  std::vector<ValueMeta>& meta_;
  const std::vector<std::vector<int32_t>> consumers_;
  std::map<ValueId, Computed> computed_;
  std::set<int32_t> inside_;      // ops that make a weight
  std::set<std::string> unread_;  // stored tensors that go
};

}  // namespace

Network FoldWeights(Network network, std::vector<ValueMeta>& meta,
                    std::vector<std::string>& folded) {
  return WeightFolder(std::move(network), meta).Run(folded);
}

}  // namespace espalier

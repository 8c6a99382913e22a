#include <ATen/ATen.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <set>

#include "env/base/error.h"
#include "env/space/branches.h"
#include "env/space/plan.h"
#include "env/space/rewrite.h"

// From a plan to smaller tensors and literals.

namespace espalier {
namespace {

/// The new argument; entries that are computed stay as `current` has them.
Arg EditValue(const LiteralEdit& edit, const Arg& current) {
  if (!edit.is_list) return c10::IValue(edit.to.front());
  const auto* computed = std::get_if<ScalarList>(&current);
  if (computed == nullptr) return c10::IValue(edit.to);
  if (computed->items.size() != edit.to.size())
    throw Error(ErrorKind::kModel,
                Str("the plan edits '", edit.argument, "' of node '", edit.node, "', which has ",
                    computed->items.size(), " entries, not ", edit.to.size()));
  ScalarList list = *computed;
  for (size_t i = 0; i < edit.to.size(); ++i)
    if (edit.to[i] != kComputed) list.items[i] = edit.to[i];
  return list;
}

/// Entries of an index buffer in the numbering of what is kept.
Tensor Renumber(const Tensor& entries, const std::vector<int64_t>& kept) {
  Tensor renumbered = entries.to(at::kLong).contiguous().clone();
  int64_t* data = renumbered.mutable_data_ptr<int64_t>();
  for (int64_t i = 0; i < renumbered.numel(); ++i) {
    const auto found = std::lower_bound(kept.begin(), kept.end(), data[i]);
    if (found == kept.end() || *found != data[i])
      throw Error(ErrorKind::kModel,
                  Str("the plan removes coordinate ", data[i], ", which an index still names"));
    data[i] = found - kept.begin();
  }
  return renumbered.to(entries.options());
}

std::vector<int64_t> SlicedSizes(const Tensor& tensor, const std::vector<KeptAxis>& axes) {
  std::vector<int64_t> sizes = tensor.sizes().vec();
  for (const KeptAxis& axis : axes)
    sizes[static_cast<size_t>(axis.axis)] = static_cast<int64_t>(axis.kept.front().size());
  return sizes;
}

/// Copies what is kept of a contiguous tensor on the CPU to `result`, in one pass over all axes.
class Gatherer {
 public:
  Gatherer(const Tensor& tensor, const std::vector<KeptAxis>& axes, const Tensor& result)
      : rows_(tensor.size(0)),
        sizes_(tensor.sizes()),
        kept_(static_cast<size_t>(tensor.dim())),
        to_(static_cast<char*>(result.mutable_data_ptr())) {
    for (const KeptAxis& axis : axes) {
      const auto number = static_cast<size_t>(axis.axis);
      kept_[number] = &axis;
      last_ = std::max(last_, number);
    }
    for (int64_t axis = 0; axis < tensor.dim(); ++axis)
      strides_.push_back(static_cast<size_t>(tensor.stride(axis) * tensor.element_size()));
    Copy(static_cast<const char*>(tensor.const_data_ptr()), 0, 0);
  }

 private:
  void Copy(const char* from, size_t axis, int64_t row) {
    const KeptAxis* kept = kept_[axis];
    if (kept == nullptr) {
      for (int64_t i = 0; i < sizes_[axis]; ++i)
        Copy(from + static_cast<size_t>(i) * strides_[axis], axis + 1, axis == 0 ? i : row);
      return;
    }
    // With several lists, each is that of a block of rows.
    const auto blocks = static_cast<int64_t>(kept->kept.size());
    const std::vector<int64_t>& list = kept->kept[static_cast<size_t>(row * blocks / rows_)];
    if (axis == last_) return CopyLast(from, list);
    for (const int64_t i : list)
      Copy(from + static_cast<size_t>(i) * strides_[axis], axis + 1, axis == 0 ? i : row);
  }

  void CopyLast(const char* from, const std::vector<int64_t>& list) {
    const size_t bytes = strides_[last_];
    if (bytes == 4) return CopyElements<uint32_t>(from, list);
    if (bytes == 2) return CopyElements<uint16_t>(from, list);
    for (const int64_t index : list) {
      std::memcpy(to_, from + static_cast<size_t>(index) * bytes, bytes);
      to_ += bytes;
    }
  }

  template <typename Element>
  void CopyElements(const char* from, const std::vector<int64_t>& list) {
    const auto* source = reinterpret_cast<const Element*>(from);
    auto* target = reinterpret_cast<Element*>(to_);
    for (const int64_t index : list) *target++ = source[index];
    to_ = reinterpret_cast<char*>(target);
  }

  const int64_t rows_;
  const at::IntArrayRef sizes_;
  std::vector<size_t> strides_;        // in bytes
  std::vector<const KeptAxis*> kept_;  // by axis; null = all of it
  size_t last_ = 0;                    // the last axis that is cut
  char* to_;
};

/// Memory for all tensors of a store that is cut. First touches of fresh pages would take longer
/// than the copies, so the kernel is asked for large ones. It lives as long as any of its tensors.
class SharedMemory {
 public:
  explicit SharedMemory(size_t bytes) {
    constexpr size_t kPage = size_t{1} << 21;
    if (bytes < 2 * kPage) return;
    left_ = (bytes + kPage - 1) / kPage * kPage;
    memory_ = std::shared_ptr<char>(static_cast<char*>(std::aligned_alloc(kPage, left_)),
                                    [](char* memory) { std::free(memory); });
    if (!memory_) throw Error(ErrorKind::kResource, "out of memory");
    madvise(memory_.get(), left_, MADV_HUGEPAGE);  // a wish: without it, it is only slower
    next_ = memory_.get();
  }

  /// What a tensor takes of it.
  static size_t BytesFor(at::IntArrayRef sizes, const at::TensorOptions& options) {
    constexpr size_t kAlign = 64;
    size_t bytes = options.dtype().itemsize();
    for (const int64_t size : sizes) bytes *= static_cast<size_t>(size);
    return (bytes + kAlign - 1) / kAlign * kAlign;
  }

  /// Uninitialised; ordinary memory when there is nothing to share.
  Tensor Take(at::IntArrayRef sizes, const at::TensorOptions& options) {
    const size_t bytes = BytesFor(sizes, options);
    if (bytes == 0 || bytes > left_) return at::empty(sizes, options);
    left_ -= bytes;
    char* const place = std::exchange(next_, next_ + bytes);
    return at::from_blob(
        place, sizes, [memory = memory_](void*) {}, options);
  }

 private:
  std::shared_ptr<char> memory_;
  char* next_ = nullptr;
  size_t left_ = 0;
};

bool CanGather(const Tensor& tensor) {
  return tensor.is_cpu() && tensor.is_contiguous() && tensor.dim() > 0;
}

/// Errors: kModel when the plan does not fit the store.
void CheckFits(const Plan& plan, const ParameterStore& store) {
  for (const auto& [name, axes] : plan.kept) {
    if (std::binary_search(plan.removed.begin(), plan.removed.end(), name)) continue;
    if (!store.Has(name))
      throw Error(ErrorKind::kModel, Str("the plan cuts '", name, "', which this network lacks"),
                  SuggestName(name, store.names()));
    const Tensor& tensor = store.Get(name);
    for (const KeptAxis& axis : axes) {
      const bool in_range = axis.axis >= 0 && axis.axis < tensor.dim();
      if (in_range && tensor.size(0) % static_cast<int64_t>(axis.kept.size()) != 0)
        throw Error(ErrorKind::kModel,
                    Str("the plan cuts axis ", axis.axis, " of '", name, "' in ", axis.kept.size(),
                        " blocks of axis 0, which has ", tensor.size(0)),
                    "is this the plan of another network?");
      for (const auto& list : axis.kept)
        if (!in_range || list.empty() || list.front() < 0 || list.back() >= tensor.size(axis.axis))
          throw Error(ErrorKind::kModel,
                      Str("the plan keeps indices outside axis ", axis.axis, " of '", name,
                          "', which is ", tensor.sizes()),
                      "is this the plan of another network?");
    }
  }
}

const std::vector<KeptAxis>& AxesOf(const Plan& plan, const std::string& name) {
  static const std::vector<KeptAxis> kNone;
  const auto found = plan.kept.find(name);
  return found == plan.kept.end() ? kNone : found->second;
}

/// Ops that compute for branches that go. Errors: kModel when the network has no such branch.
std::vector<bool> OpsGone(const Graph& graph, const Plan& plan) {
  std::vector<bool> gone(graph.ops.size());
  for (const Plan::BranchRemoved& branch : plan.branches) {
    const auto node = std::find_if(graph.ops.begin(), graph.ops.end(),
                                   [&](const Op& op) { return op.name == branch.node; });
    const int arg = node == graph.ops.end()               ? -1
                    : node->target() == "aten::index_add" ? node->ArgIndex("source")
                                                          : node->ArgIndex("other");
    const auto place = static_cast<int32_t>(node - graph.ops.begin());
    const std::vector<bool> own =
        arg < 0 ? std::vector<bool>() : OpsOnlyFor(graph, place, static_cast<int32_t>(arg));
    if (own.empty() || node->ArgIndex("alpha") < 0)
      throw Error(ErrorKind::kModel,
                  Str("the plan removes the branch of node '", branch.node, "', which has none"),
                  "is this the plan of another network?");
    for (size_t i = 0; i < own.size(); ++i) gone[i] = gone[i] || own[i];
  }
  return gone;
}

/// Without the branches that go: an addition becomes a copy of its trunk; in place, the trunk.
void RemoveBranches(Network& network, const Plan& plan) {
  if (plan.branches.empty()) return;
  Graph& graph = network.graph;
  const std::vector<bool> gone = OpsGone(graph, plan);
  std::set<std::string> additions;
  for (const Plan::BranchRemoved& branch : plan.branches) additions.insert(branch.node);
  RemoveOps(graph, gone);
  for (Op& op : graph.ops) {
    if (!additions.contains(op.name)) continue;
    if (op.target() == "aten::add_.Tensor") {
      op.args = {op.args[0]};
      op.handle = FindOperator("aten::alias", "");
    } else {
      op.args = {op.args[0], c10::IValue()};  // no memory format
      op.handle = FindOperator("aten::clone", "");
    }
  }
  const auto is_removed = [&](const std::string& name) {
    return std::binary_search(plan.removed.begin(), plan.removed.end(),
                              network.store.Canonical(name));
  };
  for (const Op& op : graph.ops)
    for (const Use& use : UsesOf(op)) {
      const std::string& target = graph.values[static_cast<size_t>(use.value)].target;
      if (!target.empty() && is_removed(target))
        throw Error(ErrorKind::kModel,
                    Str("the plan removes '", target, "', which op '", op.name, "' reads"),
                    "is this the plan of another network?");
    }
  RemoveStored(network, is_removed);
}

/// The network with the plan's literals and without its branches; what is stored is still uncut.
Network Edited(const Network& network, const Plan& plan) {
  Network edited = network;
  for (const ArgEdit& edit : ExecutorEdits(network.graph, plan))
    edited.graph.ops[static_cast<size_t>(edit.op)].args[static_cast<size_t>(edit.arg)] = edit.value;
  RemoveBranches(edited, plan);
  return edited;
}

}  // namespace

Tensor SliceTensor(const Tensor& tensor, const std::vector<KeptAxis>& axes) {
  Tensor sliced = tensor.detach();
  if (axes.empty()) return sliced.clone();
  if (CanGather(sliced)) {
    const Tensor result = at::empty(SlicedSizes(sliced, axes), sliced.options());
    Gatherer(sliced, axes, result);
    return result;
  }
  // Per-block lists refer to blocks of the uncut axis 0, so they are gathered before it.
  std::vector<const KeptAxis*> order;
  for (const KeptAxis& axis : axes) order.push_back(&axis);
  std::stable_sort(order.begin(), order.end(), [](const KeptAxis* a, const KeptAxis* b) {
    return a->kept.size() > b->kept.size();
  });
  for (const KeptAxis* axis : order) {
    std::vector<Tensor> blocks = sliced.chunk(static_cast<int64_t>(axis->kept.size()), 0);
    for (size_t b = 0; b < blocks.size(); ++b)
      blocks[b] = blocks[b].index_select(axis->axis,
                                         at::tensor(axis->kept[b], at::kLong).to(tensor.device()));
    sliced = blocks.size() == 1 ? blocks[0] : at::cat(blocks, 0);
  }
  return sliced.contiguous(tensor.suggest_memory_format());
}

Tensor WithKept(const Tensor& into, const Tensor& from, const std::vector<KeptAxis>& axes) {
  const Tensor places = at::arange(from.numel(), at::kLong).view(from.sizes());
  const Tensor kept = SliceTensor(places, axes).flatten().to(from.device());
  const Tensor values = from.detach().reshape(-1).index_select(0, kept);
  return into.contiguous().view(-1).index_copy(0, kept, values).view(from.sizes());
}

ParameterStore MaskStore(const ParameterStore& store, const Plan& plan) {
  CheckFits(plan, store);
  ParameterStore masked = store;
  for (const std::string& name : store.CanonicalNames()) {
    if (store.Kind(name) != StoreKind::kParameter) continue;
    const Tensor& tensor = store.Get(name);
    if (std::ranges::binary_search(plan.removed, name))
      masked.Set(name, at::zeros_like(tensor));
    else if (const auto& axes = AxesOf(plan, name); !axes.empty())
      masked.Set(name, WithKept(at::zeros_like(tensor), tensor, axes));
  }
  return masked;
}

Tensor SliceStored(const Plan& plan, const std::string& name, const Tensor& tensor) {
  Tensor cut = SliceTensor(tensor, AxesOf(plan, name));
  const auto numbers = plan.renumbered.find(name);
  return numbers == plan.renumbered.end() ? cut : Renumber(cut, numbers->second);
}

ParameterStore SliceStore(const ParameterStore& store, const Plan& plan) {
  CheckFits(plan, store);
  const auto in_one_pass = [&](const std::string& name, const Tensor& tensor) {
    return CanGather(tensor) && plan.kept.contains(name) && !plan.renumbered.contains(name);
  };
  size_t bytes = 0;
  for (const std::string& name : store.CanonicalNames()) {
    const Tensor& tensor = store.Get(name);
    if (in_one_pass(name, tensor))
      bytes += SharedMemory::BytesFor(SlicedSizes(tensor, AxesOf(plan, name)), tensor.options());
  }
  SharedMemory memory(bytes);
  ParameterStore sliced = store;
  for (const std::string& name : store.CanonicalNames()) {
    const Tensor tensor = store.Get(name).detach();
    if (!in_one_pass(name, tensor)) {
      sliced.Set(name, SliceStored(plan, name, tensor));
      continue;
    }
    const std::vector<KeptAxis>& axes = AxesOf(plan, name);
    const Tensor cut = memory.Take(SlicedSizes(tensor, axes), tensor.options());
    Gatherer(tensor, axes, cut);
    sliced.Set(name, cut);
  }
  return sliced;
}

std::vector<ArgEdit> ExecutorEdits(const Graph& graph, const Plan& plan) {
  std::vector<ArgEdit> edits;
  for (const LiteralEdit& edit : plan.edits) {
    const bool known = edit.op_index >= 0 &&
                       edit.op_index < static_cast<int32_t>(graph.ops.size()) &&
                       graph.ops[static_cast<size_t>(edit.op_index)].name == edit.node;
    const auto named = std::find_if(graph.ops.begin(), graph.ops.end(),
                                    [&](const Op& op) { return op.name == edit.node; });
    if (!known && named == graph.ops.end())
      throw Error(ErrorKind::kModel, Str("the plan edits node '", edit.node, "', which is absent"));
    const auto index = known ? edit.op_index : static_cast<int32_t>(named - graph.ops.begin());
    const int arg = graph.ops[static_cast<size_t>(index)].ArgIndex(edit.argument);
    if (arg < 0)
      throw Error(ErrorKind::kModel,
                  Str("node '", edit.node, "' has no argument '", edit.argument, "'"));
    edits.push_back(
        {index, arg,
         EditValue(edit, graph.ops[static_cast<size_t>(index)].args[static_cast<size_t>(arg)])});
  }
  return edits;
}

Network Cut(const Network& network, const Plan& plan) {
  Network pruned = Edited(network, plan);
  pruned.store = SliceStore(pruned.store, plan);
  return pruned;
}

StreamedCut CutStreamed(const Network& network, const Plan& plan) {
  CheckFits(plan, network.store);
  StreamedCut cut{Edited(network, plan), {}};
  for (const std::string& name : cut.network.store.CanonicalNames()) {
    const Tensor& tensor = network.store.Get(name);
    // Integers are small, and literals and shapes may hang on them: they are there at once.
    cut.network.store.Set(name, tensor.is_floating_point()
                                    ? at::empty(SlicedSizes(tensor, AxesOf(plan, name)),
                                                tensor.options().device(at::kMeta))
                                    : SliceStored(plan, name, tensor));
  }
  cut.load = [&network, &plan, store = cut.network.store](const std::string& name) {
    const Tensor& made = store.Get(name);
    return made.is_meta() ? SliceStored(plan, name, network.store.Get(name)) : made;
  };
  return cut;
}

}  // namespace espalier

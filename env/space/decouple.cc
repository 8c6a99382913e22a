#include <ATen/ATen.h>

#include <boost/graph/adjacency_list.hpp>
#include <boost/graph/dominator_tree.hpp>

#include <set>

#include "env/space/add_buffer.h"
#include "env/space/space.h"

namespace espalier {
namespace {

using OpGraph = boost::adjacency_list<boost::vecS, boost::vecS, boost::bidirectionalS>;

bool IsWeighted(const Op& op) {
  const std::string& name = op.handle.operator_name().name;
  return name.starts_with("aten::conv") || name == "aten::linear";
}

/// Finds, for a residual addition, which operand is the branch: the one with more weighted layers
/// since the point where both paths part (their nearest common dominator).
class BranchFinder {
 public:
  explicit BranchFinder(const Graph& graph) : graph_(graph), consumers_(graph.Consumers()) {
    const size_t entry = graph.ops.size();  // a node before all inputs
    OpGraph ops(graph.ops.size() + 1);
    for (size_t i = 0; i < graph.ops.size(); ++i) {
      bool has_producer = false;
      for (const Use& use : UsesOf(graph.ops[i]))
        if (const int32_t producer = Producer(use.value); producer >= 0) {
          boost::add_edge(static_cast<size_t>(producer), i, ops);
          has_producer = true;
        }
      if (!has_producer) boost::add_edge(entry, i, ops);
    }
    dominator_.assign(graph.ops.size() + 1, boost::graph_traits<OpGraph>::null_vertex());
    boost::lengauer_tarjan_dominator_tree(
        ops, entry,
        boost::make_iterator_property_map(dominator_.begin(),
                                          boost::get(boost::vertex_index, ops)));
  }

  /// 0 or 1: index of the branch operand; -1 when this is not a residual addition.
  int Branch(ValueId a, ValueId b) const {
    if (Producer(a) < 0 || Producer(b) < 0) return -1;
    const size_t fork =
        CommonDominator(static_cast<size_t>(Producer(a)), static_cast<size_t>(Producer(b)));
    if (fork == graph_.ops.size()) return -1;
    const int in_a = LayersSince(a, fork), in_b = LayersSince(b, fork);
    if (in_a == in_b) return -1;
    const int branch = in_a > in_b ? 0 : 1;
    const ValueId value = branch == 0 ? a : b;
    return consumers_[static_cast<size_t>(value)].size() == 1 ? branch : -1;
  }

 private:
  int32_t Producer(ValueId value) const {
    return graph_.values[static_cast<size_t>(value)].producer;
  }

  size_t CommonDominator(size_t a, size_t b) const {
    const size_t entry = graph_.ops.size();
    std::set<size_t> above;
    for (size_t node = a;; node = dominator_[node]) {
      above.insert(node);
      if (node == entry) break;
    }
    size_t node = b;
    while (!above.contains(node)) node = dominator_[node];
    return node;
  }

  int LayersSince(ValueId value, size_t fork) const {
    std::set<int32_t> seen;
    std::vector<int32_t> open = {Producer(value)};
    int layers = 0;
    while (!open.empty()) {
      const int32_t op = open.back();
      open.pop_back();
      if (op < 0 || op == static_cast<int32_t>(fork) || !seen.insert(op).second) continue;
      layers += IsWeighted(graph_.ops[static_cast<size_t>(op)]);
      for (const Use& use : UsesOf(graph_.ops[static_cast<size_t>(op)]))
        open.push_back(Producer(use.value));
    }
    return layers;
  }

  const Graph& graph_;
  std::vector<std::vector<int32_t>> consumers_;
  std::vector<size_t> dominator_;
};

}  // namespace

Network DecoupleResiduals(const Network& network) {
  Network rewritten = network;
  Graph& graph = rewritten.graph;
  const BranchFinder finder(network.graph);
  const std::vector<ValueMeta> meta = InferMeta(network, 1);
  for (Op& op : graph.ops) {
    const std::string& name = op.handle.operator_name().name;
    if (op.target() != "aten::add.Tensor" && op.target() != "aten::add_.Tensor") continue;
    const ValueId a = op.ValueArg("self"), b = op.ValueArg("other");
    if (a == kNoValue || b == kNoValue || op.Constant("alpha").toScalar().toDouble() != 1) continue;
    const auto& sizes = meta[static_cast<size_t>(op.outputs.front())].sizes;
    if (meta[static_cast<size_t>(a)].sizes != meta[static_cast<size_t>(b)].sizes ||
        sizes.size() < 2)
      continue;
    const int branch = finder.Branch(a, b);
    // In place, the operand that is overwritten has to be the trunk, or later reads would change.
    if (branch < 0 || (name == "aten::add_" && branch != 1)) continue;
    const int64_t dim = sizes.size() == 4 ? 1 : static_cast<int64_t>(sizes.size()) - 1;
    const ValueId index = AddBuffer(
        rewritten, (op.module_path.empty() ? op.name : op.module_path) + ".residual_index",
        at::arange(sizes[static_cast<size_t>(dim)]));
    op.handle = FindOperator("aten::index_add", "");
    op.args = {branch == 1 ? a : b, c10::IValue(dim), index, branch == 1 ? b : a, c10::IValue(1)};
  }
  Validate(graph);
  return rewritten;
}

}  // namespace espalier

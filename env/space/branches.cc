#include "env/space/branches.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <boost/graph/adjacency_list.hpp>
#include <boost/graph/dominator_tree.hpp>
#include <set>

#include "env/base/error.h"
#include "env/graph/schema_writes.h"

namespace espalier {
namespace {

using OpGraph = boost::adjacency_list<boost::vecS, boost::vecS, boost::bidirectionalS>;

bool IsWeighted(const Op& op) {
  const std::string& name = op.handle.operator_name().name;
  return name.starts_with("aten::conv") || name == "aten::linear" || name == "aten::addmm";
}

/// A size, say: what depends on it only in this way does not come from where it was measured.
bool MakesNumber(const Op& op) {
  const auto& returns = op.handle.schema().returns();
  return returns.size() == 1 && (returns[0].type()->kind() == c10::TypeKind::IntType ||
                                 returns[0].type()->kind() == c10::TypeKind::SymIntType ||
                                 returns[0].type()->kind() == c10::TypeKind::NumberType);
}

/// Ops that outputs hang on; those of `without` = (op, argument) are not followed there.
std::vector<bool> Needed(const Graph& graph, std::pair<int32_t, int32_t> without) {
  std::vector<bool> value(graph.values.size()), op(graph.ops.size());
  for (const ValueId output : graph.outputs) value[static_cast<size_t>(output)] = true;
  for (size_t i = graph.ops.size(); i-- > 0;) {
    for (const ValueId output : graph.ops[i].outputs)
      op[i] = op[i] || value[static_cast<size_t>(output)];
    if (!op[i]) continue;
    for (const Use& use : UsesOf(graph.ops[i]))
      if (std::pair(static_cast<int32_t>(i), use.arg) != without)
        value[static_cast<size_t>(use.value)] = true;
  }
  return op;
}

/// The memory an op of `inside` writes to was made by another one of them.
bool WritesInside(const Graph& graph, const std::vector<bool>& inside, ValueId written) {
  for (;;) {
    const int32_t producer = graph.values[static_cast<size_t>(written)].producer;
    if (producer < 0 || !inside[static_cast<size_t>(producer)]) return false;
    const Op& op = graph.ops[static_cast<size_t>(producer)];
    if (!MayReturnItsArgument(op)) return true;
    const auto* source = std::get_if<ValueId>(&op.args[0]);
    if (source == nullptr || *source == kNoValue) return false;
    written = *source;
  }
}

/// Stored tensors, by canonical name, that ops outside do not read.
std::vector<std::string> StoredFor(const Network& network, const std::vector<bool>& inside) {
  std::set<std::string> mine, others;
  const auto add = [&](ValueId value, bool is_mine) {
    const std::string& target = network.graph.values[static_cast<size_t>(value)].target;
    if (!target.empty()) (is_mine ? mine : others).insert(network.store.Canonical(target));
  };
  for (size_t i = 0; i < network.graph.ops.size(); ++i)
    for (const Use& use : UsesOf(network.graph.ops[i])) add(use.value, inside[i]);
  for (const ValueId output : network.graph.outputs) add(output, false);
  std::vector<std::string> stored;
  std::set_difference(mine.begin(), mine.end(), others.begin(), others.end(),
                      std::back_inserter(stored));
  return stored;
}

/// The outermost module around `op` that computes for the branch only; "" when there is none.
std::string ModuleOfBranch(const Graph& graph, const std::vector<bool>& inside, const Op& last) {
  std::string found;
  for (std::string path = last.module_path; !path.empty();) {
    for (size_t i = 0; i < graph.ops.size(); ++i) {
      const std::string& own = graph.ops[i].module_path;
      if (!inside[i] && (own == path || own.starts_with(path + "."))) return found;
    }
    found = path;
    const size_t dot = path.rfind('.');
    path = dot == std::string::npos ? "" : path.substr(0, dot);
  }
  return found;
}

/// The argument that carries the branch, which alpha multiplies; -1 when it is no residual
/// addition. Exchanges the operands where that takes it there.
int32_t BranchArgument(Network& network, Op& op, const BranchFinder& finder,
                       const std::vector<ValueMeta>& meta) {
  const std::string target = op.target();
  const bool scatter = target == "aten::index_add";
  if (!scatter && target != "aten::add.Tensor" && target != "aten::add_.Tensor") return -1;
  const char* second = scatter ? "source" : "other";
  const ValueId a = op.ValueArg("self"), b = op.ValueArg(second);
  if (a == kNoValue || b == kNoValue || op.Constant("alpha").toScalar().toDouble() != 1) return -1;
  const ValueMeta &self = meta[static_cast<size_t>(a)], &other = meta[static_cast<size_t>(b)];
  if (self.dtype != other.dtype || (!scatter && self.sizes != other.sizes)) return -1;
  const int branch = finder.Branch(a, b);
  if (branch < 0 || (scatter && branch == 0)) return -1;
  if (branch == 0) {
    const int32_t producer = network.graph.values[static_cast<size_t>(a)].producer;
    // Into a branch in place: as good as a new sum when the branch's memory is its own.
    if (target == "aten::add_.Tensor" &&
        MayReturnItsArgument(network.graph.ops[static_cast<size_t>(producer)]))
      return -1;
    op.handle = FindOperator("aten::add", "Tensor");
    op.args[0] = b;
    op.args[1] = a;
  }
  return op.ArgIndex(second);
}

}  // namespace

BranchFinder::BranchFinder(const Graph& graph) : graph_(graph), consumers_(graph.Consumers()) {
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
      boost::make_iterator_property_map(dominator_.begin(), boost::get(boost::vertex_index, ops)));
}

int BranchFinder::Branch(ValueId a, ValueId b) const {
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

int32_t BranchFinder::Producer(ValueId value) const {
  const int32_t producer = graph_.values[static_cast<size_t>(value)].producer;
  return producer < 0 || MakesNumber(graph_.ops[static_cast<size_t>(producer)]) ? -1 : producer;
}

size_t BranchFinder::CommonDominator(size_t a, size_t b) const {
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

int BranchFinder::LayersSince(ValueId value, size_t fork) const {
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

std::vector<bool> OpsOnlyFor(const Graph& graph, int32_t op, int32_t arg) {
  const std::vector<bool> before = Needed(graph, {-1, -1}), after = Needed(graph, {op, arg});
  std::vector<bool> inside(graph.ops.size());
  for (size_t i = 0; i < inside.size(); ++i) inside[i] = before[i] && !after[i];
  const auto from_inside = [&](ValueId value) {
    const int32_t producer = graph.values[static_cast<size_t>(value)].producer;
    return producer >= 0 && inside[static_cast<size_t>(producer)];
  };
  for (size_t i = 0; i < inside.size(); ++i)
    for (const Use& use : UsesOf(graph.ops[i])) {
      if (inside[i]) {
        if (IsWritten(graph.ops[i].handle.schema().arguments()[static_cast<size_t>(use.arg)]) &&
            !WritesInside(graph, inside, use.value))
          return {};
      } else if (from_inside(use.value) &&
                 std::pair(static_cast<int32_t>(i), use.arg) != std::pair(op, arg)) {
        const bool assertion = graph.ops[i].outputs.empty();
        const bool unread = !before[i] && !WritesAny(graph.ops[i].handle.schema());
        if (!assertion && !unread) return {};
        inside[i] = true;
      }
    }
  return inside;
}

std::vector<Branch> FindBranches(Network& network, const std::vector<ValueMeta>& meta) {
  const BranchFinder finder(network.graph);
  std::vector<Branch> branches;
  for (size_t i = 0; i < network.graph.ops.size(); ++i) {
    Op& op = network.graph.ops[i];
    const int32_t arg = BranchArgument(network, op, finder, meta);
    if (arg < 0) continue;
    Branch branch{.op = static_cast<int32_t>(i), .arg = arg};
    const std::vector<bool> inside = OpsOnlyFor(network.graph, branch.op, arg);
    if (inside.empty()) continue;
    for (size_t own = 0; own < inside.size(); ++own)
      if (inside[own]) branch.ops.push_back(static_cast<int32_t>(own));
    branch.stored = StoredFor(network, inside);
    if (branch.ops.empty() || branch.stored.empty()) continue;
    const auto value = std::get<ValueId>(op.args[static_cast<size_t>(arg)]);
    const int32_t last = network.graph.values[static_cast<size_t>(value)].producer;
    branch.module =
        ModuleOfBranch(network.graph, inside, network.graph.ops[static_cast<size_t>(last)]);
    branches.push_back(std::move(branch));
  }
  return branches;
}

}  // namespace espalier

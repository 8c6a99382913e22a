#include <ATen/ATen.h>

#include "env/space/branches.h"
#include "env/space/rewrite.h"
#include "env/space/space.h"

namespace espalier {
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
    const ValueId index = AddStored(
        rewritten, (op.module_path.empty() ? op.name : op.module_path) + ".residual_index",
        at::arange(sizes[static_cast<size_t>(dim)]), StoreKind::kBuffer);
    op.handle = FindOperator("aten::index_add", "");
    op.args = {branch == 1 ? a : b, c10::IValue(dim), index, branch == 1 ? b : a, c10::IValue(1)};
  }
  Validate(graph);
  return rewritten;
}

}  // namespace espalier

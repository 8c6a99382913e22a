#include "env/space/space.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <map>
#include <set>

#include "env/base/error.h"
#include "env/space/branches.h"
#include "env/space/space_builder.h"

namespace espalier {

int64_t Space::layer_sets() const {
  std::set<int32_t> sets;
  for (const Group& group : groups_) sets.insert(group.layer_set);
  return static_cast<int64_t>(sets.size());
}

int32_t Space::FindGroup(const std::string& name) const {
  for (size_t g = 0; g < groups_.size(); ++g)
    if (groups_[g].name == name) return static_cast<int32_t>(g);
  return -1;
}

Space BuildSpace(const Network& network, const SpaceOptions& options) {
  if (options.attention != "dims" && options.attention != "heads" && options.attention != "both")
    throw Error(ErrorKind::kConfig,
                Str("space.attention = \"", options.attention, "\": expected dims, heads or both"),
                SuggestName(options.attention, {"dims", "heads", "both"}));
  Network own = options.decouple_residuals ? DecoupleResiduals(network) : network;
  std::vector<ValueMeta> meta = InferMeta(own, 1);
  std::vector<std::string> folded;
  own = JoinWrites(std::move(own), meta);
  own = FoldWeights(std::move(own), meta, folded);
  own = GatherPermutations(std::move(own), meta);
  std::vector<Branch> branches;
  if (options.depth) branches = FindBranches(own, meta);
  return SpaceBuilder(std::move(own), std::move(meta), options)
      .Build(std::move(branches), std::move(folded));
}

Tensor EffectiveFactors(const Space& space, const Tensor& factors) {
  std::vector<int64_t> parents;
  bool any = false;
  for (int64_t unit = 0; unit < space.total_units(); ++unit) {
    parents.push_back(space.parent_of_unit(unit));
    any = any || parents.back() >= 0;
    if (parents.back() < 0) parents.back() = space.total_units();
  }
  if (!any) return factors;
  const Tensor padded = at::cat({factors, at::ones({1}, factors.options())});  // last: no parent
  return factors * padded.index_select(0, at::tensor(parents, at::kLong).to(factors.device()));
}

std::vector<Gate> ReadGates(const Space& space, const Tensor& given) {
  ESPALIER_CHECK(given.dim() == 1 && given.size(0) == space.total_units(), "gates: got ",
                 given.sizes(), " factors for ", space.total_units(), " units");
  const Tensor factors = EffectiveFactors(space, given);
  // Reads of the same units share one multiplier, so that the executor multiplies a value once.
  std::map<std::pair<std::vector<int32_t>, std::vector<int64_t>>, Tensor> multipliers;
  const Tensor padded = at::cat({factors, at::ones({1}, factors.options())});  // last: factor 1
  std::vector<Gate> gates;
  for (const ReadPoint& read : space.reads()) {
    Tensor& multiplier = multipliers[{read.unit, read.shape}];
    if (!multiplier.defined()) {
      std::vector<int64_t> index(read.unit.begin(), read.unit.end());
      for (int64_t& unit : index)
        if (unit < 0) unit = space.total_units();
      multiplier = padded.index_select(0, at::tensor(index, at::kLong).to(factors.device()));
      if (read.axis < 0) multiplier = multiplier.view(read.shape);
    }
    gates.push_back({read.op, read.arg, read.element, read.axis, multiplier});
  }
  return gates;
}

}  // namespace espalier

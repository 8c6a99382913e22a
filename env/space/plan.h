#pragma once

#include <nlohmann/json_fwd.hpp>

#include <filesystem>
#include <limits>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "env/graph/tensor_loader.h"
#include "env/space/space.h"

namespace espalier {

/// A keep ratio in (0, 1] per Group: what strategies propose. [groups]
using Decision = std::vector<double>;
/// Kept units per Group, ascending: Decision + scores. [groups][kept]
using Selection = std::vector<std::vector<int64_t>>;

Selection KeepAll(const Space& space);
std::vector<int64_t> KeptCounts(const Selection& selection);
/// Highest scores first, `counts[g]` units of group g (equal per block where blocks > 1); ties go
/// to the lower index. The best unit of each of Group::parts stays whatever others score.
/// scores[g]: [units], larger = keep. Errors: internal on size mismatch.
Selection SelectTop(const Space& space, const std::vector<std::vector<double>>& scores,
                    const std::vector<int64_t>& counts);
/// As many of each group, the first ones of every block: where only widths matter.
Selection SelectFirst(const Space& space, const std::vector<int64_t>& counts);
/// Why these units of a group cannot be all that stays ("keeps unequal counts in its 4 blocks");
/// empty when they can. MakePlan refuses a Selection with a fault.
std::string SelectionFault(const Group& group, std::span<const int64_t> kept);
/// [total_units] 1 = kept. Errors: internal when the selection is of another Space.
std::vector<uint8_t> UnitMask(const Space& space, const Selection& selection);
/// The same, with units whose parent (their head) is removed taken out too.
std::vector<uint8_t> EffectiveMask(const Space& space, const std::vector<uint8_t>& mask);

/// Kept indices of one axis; with blocks > 1 one list a block (grouped convolution).
struct KeptAxis {
  int64_t axis = 0;
  std::vector<std::vector<int64_t>> kept;  ///< one list; or one per block of axis 0, equal lengths
};

/// Stands for an entry that is computed at run time in LiteralEdit::from and to; null in JSON.
inline constexpr int64_t kComputed = std::numeric_limits<int64_t>::min();

/// An integer literal that follows from the cut.
struct LiteralEdit {
  std::string node;      ///< Op::name
  std::string op;        ///< "aten::view"
  std::string argument;  ///< "size"
  int32_t op_index = -1;
  std::vector<int64_t> from, to;
  bool is_list = true;   ///< false: a single int such as `groups`
  std::string module{};  ///< Op::module_path
};

/// Parameter -> axis -> kept indices, all in original coordinates, plus literal edits. Order
/// independent; saved as plan.json (docs/formats.md).
struct Plan {
  std::string source_name, source_sha256;
  std::map<std::string, std::vector<KeptAxis>> kept;  ///< cut axes only
  struct GroupKept {
    std::string name;
    int64_t units;
    std::vector<int64_t> kept;
  };
  std::vector<GroupKept> groups;
  std::vector<LiteralEdit> edits;
  /// Residual branches that go. Besides, their additions' alpha becomes 0 among the edits, so that
  /// the uncut graph with the plan's literals and slices computes the same as the cut one.
  struct BranchRemoved {
    std::string node;    ///< the addition, which becomes a copy of the trunk
    std::string module;  ///< Branch::module
  };
  std::vector<BranchRemoved> branches{};
  std::vector<std::string> folded{};   ///< Space::folded: the network itself computes them
  std::vector<std::string> removed{};  ///< stored tensors that go with them, canonical, sorted
  /// Index buffers (after their own cut) whose entries count along a cut axis: entry e becomes the
  /// position of e in this list of kept coordinates.
  std::map<std::string, std::vector<int64_t>> renumbered;
};

/// Literals that name a cut width, followed through `mask` (UnitMask). In literal_edits.cc.
std::vector<LiteralEdit> FollowLiterals(const Space& space, const std::vector<uint8_t>& mask);
/// Errors: internal when a selection is empty, out of range or breaks a block constraint.
Plan MakePlan(const Space& space, const Selection& selection);
nlohmann::json ToJson(const Plan& plan);
/// Errors: kModel naming the JSON path of what is wrong.
Plan PlanFromJson(const nlohmann::json& json);
Plan ReadPlan(const std::filesystem::path& path);  ///< plan.json; also kIo, and names the file

/// One gather per parameter; ties stay ties. The tensors are fresh copies; those of a large store
/// lie in one piece of memory, which stays as long as one of them does.
/// Errors: kModel when the plan does not fit the store (another network's plan).
ParameterStore SliceStore(const ParameterStore& store, const Plan& plan);
/// The same kept sets for anything keyed by parameter name: optimiser state, EMA copies.
Tensor SliceTensor(const Tensor& tensor, const std::vector<KeptAxis>& axes);
/// `into` with the entries of `from`, of the same shape, that are kept.
Tensor WithKept(const Tensor& into, const Tensor& from, const std::vector<KeptAxis>& axes);
/// Parameters with zeros where the plan cuts: the uncut graph then computes what the cut one does,
/// but for statistics over a cut axis (Group::exact), which count the zeros. Shares what stays.
ParameterStore MaskStore(const ParameterStore& store, const Plan& plan);
/// One tensor of a network as the plan makes it, by canonical name.
Tensor SliceStored(const Plan& plan, const std::string& name, const Tensor& tensor);
std::vector<ArgEdit> ExecutorEdits(const Graph& graph, const Plan& plan);
/// The physically smaller network: sliced store, edited literals.
Network Cut(const Network& network, const Plan& plan);

/// The same for networks too large to be there twice.
struct StreamedCut {
  Network network;    ///< floating tensors of its store have a shape, but no content (meta)
  TensorLoader load;  ///< makes that: borrows the uncut network and the plan
};
StreamedCut CutStreamed(const Network& network, const Plan& plan);

}  // namespace espalier

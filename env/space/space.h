#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "env/graph/executor.h"
#include "env/graph/network.h"

namespace espalier {

/// How a parameter axis takes part in a Group.
enum class MemberRole {
  kProducer,  ///< rows that compute the unit: conv/linear axis 0
  kConsumer,  ///< columns that read the unit: conv/linear axis 1
  kChannel,   ///< per-channel tensors on the way: batch-norm, depthwise weight, prelu, layer scale
};

/// One (parameter, axis) touched by a Group: by all of its units, or by a run of them. Unit u of
/// [first_unit, first_unit + units()) owns the coordinates indices[(u - first_unit) * per_unit ..
/// (u - first_unit + 1) * per_unit) of that axis, original numbering.
struct Member {
  std::string parameter;  ///< canonical store name
  int64_t axis = 0;
  int64_t blocks = 1;  ///< axis-0 blocks that keep different indices (grouped convolution)
  MemberRole role = MemberRole::kProducer;
  int64_t per_unit = 1;          ///< coordinates per unit (flatten: H*W)
  std::vector<int64_t> indices;  ///< [units * per_unit]; in [0, size) or block * size + offset
  int64_t first_unit = 0;
  int64_t units() const { return static_cast<int64_t>(indices.size()) / per_unit; }
};

/// Units that compete with each other because they couple the same parameters.
struct Group {
  std::string name;  ///< module path of its first producer, e.g. "layer1.0.conv1"
  /// "channel"; "head_dim": one of the equal heads' dims, one block a head; "head": a whole head,
  /// "kv_group": a key/value head with the query heads it serves; "depth": a residual branch, which
  /// is one unit whose members are all its weights.
  std::string kind;
  int64_t units = 0;
  std::vector<Member> members;
  /// Units of one block must be kept in equal number in every block; 1 = no constraint. Unit u is
  /// in block u / (units / blocks).
  int64_t blocks = 1;
  int64_t least = 1;  ///< units that have to stay, whole blocks; 0 for a branch
  /// The largest number of units that can stay and is no more than `count`, or else `least`.
  int64_t Keepable(int64_t count) const { return std::max(least, count / blocks * blocks); }
  /// Units that are all there is along an axis of some value, such as the smaller part of a split:
  /// one of each set has to stay. Ascending.
  std::vector<std::vector<int64_t>> parts{};
  /// Groups with the same number share producers (parts of one axis that are coupled in different
  /// ways): the sets of coupled layers that DepGraph's walk finds. Heads have that of their dims.
  int32_t layer_set = -1;
  bool exact = true;  ///< false: a statistic runs over this axis (layer norm): certified against
                      ///< the statistic of the kept units
};

/// Coordinates that cannot be removed, and the operation that forbids it.
struct Pin {
  std::string parameter;  ///< canonical store name of a producer axis
  int64_t axis = 0;
  int64_t count = 0;   ///< coordinates pinned on that axis
  std::string reason;  ///< "network output", "network input", "aten::foo at block.3: no rule", ...
};

/// Where units are read: the argument of an op whose axis carries them. A controller that
/// multiplies here masks exactly (depgraph: masking at the consumers).
struct ReadPoint {
  int32_t op = -1;
  int32_t arg = -1;
  int32_t element = 0;
  int64_t axis = 1;  ///< -1: units run along several axes, see shape
  /// Global unit number, -1 = not prunable. [axis size]; with axis -1 in row-major order of
  /// `shape`, which has the value's rank and broadcasts to it.
  std::vector<int32_t> unit;
  std::vector<int64_t> shape{};
};

/// times * kept[group] / per, times the share of `parent`'s units that is kept: a coordinate of a
/// head's dim is there when both the dim and the head are.
struct AxisTerm {
  int32_t group = 0;
  int64_t times = 1;
  int64_t per = 1;
  int32_t parent = -1;  ///< group whose unit has to be kept too; -1 = none
  bool operator==(const AxisTerm&) const = default;
};

/// Kept coordinates along an axis of some value as a function of kept units per group.
struct AxisCount {
  int64_t constant = 0;
  std::vector<AxisTerm> terms;
  /// Where the axis holds some of a group's units more often than others, or not at all, so that
  /// the terms are a mean over which ones are kept: the global unit of every coordinate, -1 rigid.
  /// Empty elsewhere.
  std::vector<int32_t> units{};
  bool operator==(const AxisCount&) const = default;
};

/// A residual addition trunk + alpha * branch that is left as the trunk when its unit goes.
struct Branch {
  int32_t op = -1;                    ///< add or index_add
  int32_t arg = -1;                   ///< the branch's argument
  int32_t group = -1;                 ///< of its one unit
  std::vector<int32_t> ops{};         ///< that compute for nothing but the branch, ascending
  std::vector<std::string> stored{};  ///< tensors that only they read, canonical names
  std::string module{};  ///< outermost module that holds nothing but this branch's ops and makes
                         ///< its result; "" when there is none
};

struct SpaceOptions {
  /// Separate residual branches from their trunk before grouping (AutoBot's CIFAR ResNets): the
  /// trunk keeps its width, each branch's last convolution becomes a group of its own.
  bool decouple_residuals = false;
  std::vector<std::string> exclude{};  ///< module-path patterns (`*` any text) that are not cut
  /// What of an attention can go: "dims" of its heads, whole "heads", or "both" as groups of one
  /// Space.
  std::string attention = "dims";
  /// Whole residual branches are units too: groups of kind "depth" that may keep none.
  bool depth = false;
};

/// What one value of the graph looks like to the cost model: recorded sizes at batch 1 and, for
/// each axis, how many coordinates survive.
struct ValueShape {
  std::vector<int64_t> sizes;
  std::vector<AxisCount> axes;             ///< coordinates over all blocks when blocks[axis] > 1
  std::vector<int64_t> blocks;             ///< per axis: grouped-convolution weights keep
                                           ///< count / blocks on this axis; else 1
  std::vector<std::vector<int32_t>> unit;  ///< per axis: [coordinates] global unit, -1 rigid;
                                           ///< empty = the whole axis is rigid
  std::vector<uint8_t> in_block;  ///< per axis: 1 = the units listed are those of one block, and
                                  ///< all blocks keep as many
};

/// A stored list of indices whose entries count in the coordinates of a value's axis: a cut of that
/// axis renumbers them.
struct Numbering {
  std::string buffer;
  ValueId value = kNoValue;
  int64_t axis = 0;
};

/// All Groups of a Network, found by label execution, and what cannot be pruned.
///
/// Source   label execution and union-find over coordinates: every activation element carries the
/// id
///          of the coordinate it came from; data-movement ops run themselves on the ids.
/// Errors   kModel when the network does not run on its recorded shapes. Operators without a rule
/// are
///          never guessed: what they touch is pinned with the operator's name.
/// Cost     one forward at batch 1 plus integer copies; grouping is near-linear in coordinates.
class Space {
 public:
  const std::vector<Group>& groups() const { return groups_; }
  const std::vector<Pin>& pins() const { return pins_; }
  const std::vector<ReadPoint>& reads() const { return reads_; }
  /// Arguments over whose units an op takes a statistic (layer norm, mean over channels).
  const std::vector<ReadPoint>& norms() const { return norms_; }
  const std::vector<Numbering>& numberings() const { return numberings_; }
  const std::vector<Branch>& branches() const { return branches_; }
  /// Stored weights that the given network computes in every forward.
  const std::vector<std::string>& folded() const { return folded_; }
  const std::vector<ValueShape>& values() const { return values_; }  ///< by ValueId of the network
  int64_t layer_sets() const;                                        ///< distinct Group::layer_set
  int64_t total_units() const { return static_cast<int64_t>(group_of_.size()); }
  int64_t unit_offset(size_t group) const { return offsets_[group]; }  ///< first global unit number
  int32_t group_of_unit(int64_t unit) const { return group_of_[static_cast<size_t>(unit)]; }
  /// The unit without which this one cannot be there (the head of a dim), global; -1 = none.
  int32_t parent_of_unit(int64_t unit) const { return parents_[static_cast<size_t>(unit)]; }
  int32_t FindGroup(const std::string& name) const;  ///< -1 when absent
  /// The network the Space was made from: the given one, or its decoupled rewrite.
  const Network& network() const { return network_; }

 private:
  friend class SpaceBuilder;
  Network network_;
  std::vector<Group> groups_;
  std::vector<Pin> pins_;
  std::vector<ReadPoint> reads_, norms_;
  std::vector<Numbering> numberings_;
  std::vector<Branch> branches_;
  std::vector<std::string> folded_;
  std::vector<int32_t> group_of_, parents_;  // by unit
  std::vector<ValueShape> values_;
  std::vector<int64_t> offsets_;
};

Space BuildSpace(const Network& network, const SpaceOptions& options = {});

/// factors [total_units], each multiplied with its parent's: a dim of a removed head is removed.
Tensor EffectiveFactors(const Space& space, const Tensor& factors);

/// Gates that multiply every read of every unit by its factor: factors [total_units] of any float
/// dtype (0/1 masks, or a controller's soft gates, which then receive gradients).
std::vector<Gate> ReadGates(const Space& space, const Tensor& factors);

/// Rewrites every residual add whose branch can be cut apart from its trunk into
/// index_add(trunk, 1, index, branch) with `index` a buffer 0..C-1: same function, separate widths.
Network DecoupleResiduals(const Network& network);

}  // namespace espalier

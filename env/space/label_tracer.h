#pragma once

#include <deque>
#include <map>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "env/graph/executor.h"
#include "env/graph/network.h"
#include "env/space/coordinate_axis.h"
#include "env/space/labels.h"
#include "env/space/space.h"

namespace espalier {

/// Runs a network's ops on labels instead of numbers and records which coordinates are coupled.
/// Rewrites ops whose arguments could not follow a cut (chunk, strided slice, roll) in place.
///
/// Source   label execution over the op stream: data movement runs itself, arithmetic unions,
///          contractions tie the input axis and mint fresh labels, unknown ops pin and say why.
/// Cost     integer work on per-axis vectors; full-size label tensors only inside reshapes.
class LabelTracer {
 public:
  LabelTracer(Network& network, std::vector<ValueMeta> meta);
  void Run();

  /// The lowest coordinate among those that are coupled with this one.
  int64_t Find(int64_t id) {
    const auto parent = [&](int64_t of) -> int32_t& { return parent_[static_cast<size_t>(of)]; };
    while (parent(id) != id) id = parent(id) = parent(parent(id));
    return id;
  }
  int64_t coordinate_count() const { return static_cast<int64_t>(parent_.size()); }
  const std::deque<CoordinateAxis>& axes() const { return axes_; }
  const std::vector<ValueMeta>& meta() const { return meta_; }
  const Labels& labels(ValueId value) const { return labels_[static_cast<size_t>(value)]; }
  struct PinRecord {
    int64_t id;
    int32_t reason;
  };
  const std::vector<PinRecord>& pins() const { return pins_; }
  const std::vector<std::string>& reasons() const { return reasons_; }
  /// An argument whose labels are read (or normalised): ids has the value's rank.
  struct Read {
    int32_t op, arg, element;
    Tensor ids;
  };
  const std::vector<Read>& reads() const { return reads_; }
  /// Ops that take a statistic over labels: normalisation, mean over channels.
  const std::vector<Read>& norms() const { return norms_; }
  /// `ids` split into equal runs of which every one must keep the same number.
  struct Runs {
    std::vector<int64_t> ids;
    int64_t runs;
    std::string where;
  };
  const std::vector<Runs>& runs() const { return runs_; }
  /// Members of slab coordinates, by id.
  const std::map<int64_t, std::vector<int64_t>>& slabs() const { return slabs_; }
  /// Index buffers whose entries count in the coordinates of another value's axis.
  struct Numbering {
    std::string buffer;
    ValueId value;
    int64_t axis;
  };
  const std::vector<Numbering>& numberings() const { return numberings_; }
  /// The axis of a coordinate, by its place in axes(), or itself.
  int32_t AxisIndex(int64_t id) const { return axis_of_[static_cast<size_t>(id)]; }
  const CoordinateAxis& AxisOf(int64_t id) const {
    return axes_[static_cast<size_t>(AxisIndex(id))];
  }
  const CoordinateAxis* FindAxis(const std::string& parameter, int64_t axis) const;
  const CoordinateAxis* FindElements(const std::string& parameter) const;
  at::IntArrayRef StoredSizes(const std::string& parameter) const {
    return network_.store.Get(parameter).sizes();
  }

  Network& network() { return network_; }
  const std::vector<int64_t>& sizes(ValueId value) const {
    return meta_[static_cast<size_t>(value)].sizes;
  }
  const ValueMeta& MetaOf(ValueId value) const { return meta_[static_cast<size_t>(value)]; }
  void Set(ValueId value, Tensor ids) { labels_[static_cast<size_t>(value)].ids = std::move(ids); }
  /// The axis' coordinates, minted at first use. `value` must be a stored tensor.
  CoordinateAxis& StoredAxis(ValueId value, int64_t axis, MemberRole role, bool is_root,
                             const std::string& layer, int64_t blocks = 1, int64_t count = -1);
  /// The value's labels; for a stored tensor, or one that was only moved around since, one
  /// coordinate per element. Undefined when there is nothing to cut.
  Tensor Usable(ValueId value, const std::string& layer);
  /// `value` is what op `index` made of a stored tensor (or such a value) by moving it.
  void SetMoved(ValueId value, ValueId source, int32_t index, size_t output) {
    moved_[value] = {source, index, output};
  }
  bool IsMovedStored(ValueId value) const { return moved_.contains(value); }
  /// Stored, moved since, or computed from such alone: what it meets tells where it is cut.
  bool IsFree(ValueId value) const {
    return IsStored(value) || IsMovedStored(value) || free_.contains(value);
  }
  void SetFree(ValueId value) { free_.insert(value); }
  /// `op` takes a free value as it is: it cannot be cut.
  void SetRigid(ValueId value, int32_t op) {
    if (IsFree(value)) rigid_.push_back({value, op});
  }
  /// Whether a value, or the stored tensor it was moved from, has coordinates yet.
  bool IsKnown(ValueId value) const;
  /// Coordinates along an axis of a layer's weight: a stored tensor's own, or those that were moved
  /// there. Empty when the axis is not a slice of one stored axis.
  std::vector<int64_t> WeightIds(ValueId value, int64_t axis, MemberRole role, bool is_root,
                                 const std::string& layer);
  /// The same for a stack of weights, a slice for every index of `stack` (axis 0 of the stored
  /// tensor): slice by slice where they stay `apart`, else what all share. Empty unless IsStack.
  std::vector<int64_t> StackIds(ValueId value, int64_t stack, int64_t axis, bool apart,
                                MemberRole role, bool is_root, const std::string& layer);
  bool IsStack(ValueId value, int64_t stack, int64_t axis) const;  ///< not known by its elements
  /// Slices that are picked of a stack at run time: WeightIds has both axes.
  bool IsPickedStack(ValueId value, int64_t in, int64_t out) const;
  /// The same, block by block, for coordinates that are known already; empty for others.
  std::vector<int64_t> KnownWeightIds(ValueId value, int64_t axis);
  const CoordinateAxis& PhantomAxis(int64_t count, const std::string& layer);
  void Union(int64_t a, int64_t b);
  int32_t Reason(const std::string& text);  ///< its number, to pin many coordinates
  void Pin(int64_t id, int32_t reason) {
    if (id > 0) pins_.push_back({id, reason});
  }
  void Pin(int64_t id, const std::string& reason) { Pin(id, Reason(reason)); }
  void PinAll(const Tensor& ids, const std::string& reason);
  void AddRead(int32_t op, int32_t arg, int32_t element, Tensor ids);
  void AddNorm(int32_t op, int32_t arg, Tensor ids) { norms_.push_back({op, arg, 0, ids}); }
  void AddRuns(std::vector<int64_t> ids, int64_t runs, std::string where);
  void AddNumbering(const std::string& buffer, ValueId value, int64_t axis) {
    numberings_.push_back({buffer, value, axis});
  }
  /// One id per index of `axis`. Labels that differ over other axes are unioned, and what vanishes
  /// as a slab of those axes is pinned: the reader is the same for all of them.
  std::vector<int64_t> AxisIds(ValueId value, int64_t axis, const std::string& where);
  /// One slab per index of the `kept` axes (all others become size 1): -1 where it holds data that
  /// cannot be cut, the id itself where there is only one.
  Tensor Slabs(const Tensor& ids, const std::vector<int64_t>& kept);
  /// Representatives instead of ids; axes along which they do not change become size 1.
  Tensor Canonical(const Tensor& ids);
  /// int64 labels of this shape.
  static Tensor Make(const std::vector<int64_t>& ids, const std::vector<int64_t>& shape);
  /// [1, .., count, .., 1] labels that run along one axis.
  static Tensor Along(int64_t rank, int64_t axis, const std::vector<int64_t>& ids);
  static std::vector<int64_t> Ids(const CoordinateAxis& axis);
  bool IsStored(ValueId value) const {
    return value != kNoValue && !network_.graph.values[static_cast<size_t>(value)].target.empty();
  }
  const std::string& StoredName(ValueId value) const;
  /// A new buffer of the network and the value that reads it.
  ValueId AddBuffer(const std::string& name, const Tensor& tensor);
  /// A buffer with what ops made of literals and buffers alone, once for all its readers; kNoValue
  /// for other values, and where one number serves all.
  ValueId StoreConstant(ValueId value, const std::string& layer);
  int64_t InnerAxis(const Tensor& ids);

 private:
  Tensor StoredElements(ValueId value, const std::string& layer);
  ValueId StoredSource(ValueId value) const;  ///< what it was moved from, or itself
  void PinRigid(ValueId value, const Op& op);
  /// The stored tensor, its axis, and the index on it of every place along `axis` of a moved value.
  struct Origin {
    ValueId stored = kNoValue;
    int64_t axis = 0;
    std::vector<int64_t> places;
  };
  Origin OriginOf(ValueId value, int64_t axis) const;
  CoordinateAxis& AddAxis(CoordinateAxis axis);
  int32_t& StoredPlace(const std::string& parameter, int64_t axis);

  Network& network_;
  std::vector<ValueMeta> meta_;
  std::vector<Labels> labels_;       // by value
  std::deque<CoordinateAxis> axes_;  // a deque: references stay valid while it grows
  /// Stored tensor -> by axis + 1 (0: its elements) the place in axes_, or -1 while it has none.
  std::unordered_map<std::string, std::vector<int32_t>> stored_axes_;
  // Sets of coupled coordinates, as a forest that halves its paths; both by coordinate.
  std::vector<int32_t> parent_, axis_of_;
  std::vector<PinRecord> pins_;
  std::vector<std::string> reasons_;
  std::map<std::string, int32_t> reason_ids_;
  std::vector<Read> reads_, norms_;
  std::vector<Runs> runs_;
  std::map<std::vector<int64_t>, int64_t> slab_ids_;  // members -> slab
  std::map<int64_t, std::vector<int64_t>> slabs_;
  std::vector<Numbering> numberings_;
  struct Moved {
    ValueId source;
    int32_t op;
    size_t output;
  };
  std::map<ValueId, Moved> moved_;
  std::set<ValueId> free_;
  std::vector<std::pair<ValueId, int32_t>> rigid_;  // value, op
  std::map<ValueId, ValueId> constants_;            // computed -> stored, or kNoValue
};

}  // namespace espalier

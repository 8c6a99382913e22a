#pragma once

#include <boost/pending/disjoint_sets.hpp>

#include <deque>
#include <map>
#include <string>
#include <vector>

#include "env/graph/executor.h"
#include "env/graph/network.h"
#include "env/space/space.h"

namespace espalier {

/// A numbered run of coordinates: one axis of one stored tensor, or zero padding (no tensor).
struct CoordinateAxis {
  std::string parameter;  ///< canonical name; empty for padding
  int64_t axis = 0;
  int64_t blocks = 1;
  MemberRole role = MemberRole::kChannel;
  int64_t first = 0;  ///< id of coordinate 0
  int64_t count = 0;
  int64_t runs = 1;      ///< equal runs that must keep equal counts: rows of a grouped convolution
  bool is_root = false;  ///< weight rows of a convolution or linear: where units are born
  std::string layer;     ///< module path of the op that reads it
};

/// Labels of one value: an int64 tensor of the value's rank, with size 1 on axes along which the
/// labels do not change. Entries: > 0 coordinate id, 0 filler (spatial zero padding), -1 data that
/// cannot be cut. Undefined: all -1.
struct Labels {
  Tensor ids;
  bool defined() const { return ids.defined(); }
};

/// Runs a network's ops on labels instead of numbers and records which coordinates are coupled.
///
/// Source   label execution over the op stream: data movement runs itself, arithmetic unions,
///          contractions tie the input axis and mint fresh labels, unknown ops pin and say why.
/// Cost     integer work on per-axis vectors; full-size label tensors only inside reshapes.
class LabelTracer {
 public:
  explicit LabelTracer(const Network& network);
  void Run();

  // Results.
  int64_t Find(int64_t id) { return sets_.find_set(id); }
  int64_t coordinate_count() const { return static_cast<int64_t>(rank_.size()); }
  const std::deque<CoordinateAxis>& axes() const { return axes_; }
  const std::vector<ValueMeta>& meta() const { return meta_; }
  const Labels& labels(ValueId value) const { return labels_[static_cast<size_t>(value)]; }
  struct PinRecord {
    int64_t id;
    int32_t reason;
  };
  const std::vector<PinRecord>& pins() const { return pins_; }
  const std::vector<std::string>& reasons() const { return reasons_; }
  struct Read {
    int32_t op, arg, element;
    int64_t axis;
    std::vector<int64_t> ids;
  };
  const std::vector<Read>& reads() const { return reads_; }
  const CoordinateAxis& AxisOf(int64_t id) const;
  const CoordinateAxis* FindAxis(const std::string& parameter, int64_t axis) const;

  // For the rules (label_rules.cc).
  const Network& network() const { return network_; }
  const std::vector<int64_t>& sizes(ValueId value) const {
    return meta_[static_cast<size_t>(value)].sizes;
  }
  void Set(ValueId value, Tensor ids) { labels_[static_cast<size_t>(value)].ids = std::move(ids); }
  /// The axis' coordinates, minted at first use. `value` must be a stored tensor.
  CoordinateAxis& StoredAxis(ValueId value, int64_t axis, MemberRole role, bool is_root,
                             const std::string& layer, int64_t blocks = 1, int64_t count = -1);
  const CoordinateAxis& PaddingAxis(int64_t count, const std::string& layer);
  void Union(int64_t a, int64_t b);
  void Pin(int64_t id, const std::string& reason);
  void PinAll(const Labels& labels, const std::string& reason);
  void AddRead(int32_t op, const std::string& argument, int64_t axis, std::vector<int64_t> ids);
  /// One id per index of `axis`; labels that differ over the other axes are unioned.
  std::vector<int64_t> AxisIds(ValueId value, int64_t axis, const std::string& where);
  /// [1, .., count, .., 1] labels that run along one axis.
  static Tensor Along(int64_t rank, int64_t axis, const std::vector<int64_t>& ids);
  static std::vector<int64_t> Ids(const CoordinateAxis& axis);
  bool IsStored(ValueId value) const {
    return value != kNoValue && !network_.graph.values[static_cast<size_t>(value)].target.empty();
  }

 private:
  int64_t Mint(int64_t count);

  const Network& network_;
  std::vector<ValueMeta> meta_;
  std::vector<Labels> labels_;       // by value
  std::deque<CoordinateAxis> axes_;  // a deque: references stay valid while it grows
  std::map<std::pair<std::string, int64_t>, size_t> stored_axes_;
  std::vector<int64_t> rank_, parent_;
  boost::disjoint_sets<int64_t*, int64_t*> sets_{nullptr, nullptr};
  std::vector<PinRecord> pins_;
  std::vector<std::string> reasons_;
  std::map<std::string, int32_t> reason_ids_;
  std::vector<Read> reads_;
};

/// Applies the rule of one op; ops without one pin what they read. In label_rules.cc.
void ApplyLabelRule(LabelTracer& tracer, int32_t op_index);

}  // namespace espalier

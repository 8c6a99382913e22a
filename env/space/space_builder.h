#pragma once

#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "env/space/label_tracer.h"
#include "env/space/space.h"
#include "env/space/unit_classes.h"

namespace espalier {

/// Weights of layers that are computed of stored tensors (weight norm, standardised weights,
/// low-rank updates) are stored as they are: parameters that can be cut, whose names come in
/// `folded`. meta: kept up to date.
Network FoldWeights(Network network, std::vector<ValueMeta>& meta,
                    std::vector<std::string>& folded);

/// Chains of reshapes and transposes whose net effect is a permutation of one axis (channel
/// shuffle) become one index_select over a stored list: after a cut, order and counts need not be
/// regular. meta: of the network's values, kept up to date.
Network GatherPermutations(Network network, std::vector<ValueMeta>& meta);

/// A fresh tensor of which every place is then written through slices, all of one axis (the two
/// halves of rotary pairs), becomes what its parts are joined to: a cut slice is no view any more.
/// meta: of the network's values, kept up to date.
Network JoinWrites(Network network, std::vector<ValueMeta>& meta);

/// Turns the tracer's coordinates into units, groups, pins and axis counts.
class SpaceBuilder {
 public:
  SpaceBuilder(Network network, std::vector<ValueMeta> meta, const SpaceOptions& options);
  Space Build(std::vector<Branch> branches, std::vector<std::string> folded);

 private:
  /// (number of an axis, coordinates on it) for every axis that coordinates lie on: units with the
  /// same pattern couple the same tensors in the same way and compete with each other.
  using Pattern = std::vector<std::pair<int32_t, size_t>>;

  void Exclude();
  bool IsExcluded(const std::string& module_path) const;
  Pattern PatternOf(std::span<const int64_t> ids) const;
  void MakeGroups();
  void MakeHeads();
  void AddGroup(const std::vector<int32_t>& classes, int64_t blocks, const std::string& kind);
  void AddUnits(Group group, const std::vector<int32_t>& members);
  void AddMembers(Group& group, const std::vector<std::span<const int64_t>>& units) const;
  void ElementsToAxis(const CoordinateAxis& elements, Member& member) const;
  bool OrderByBlocks(std::vector<int32_t>& classes, const std::vector<int32_t>& sets,
                     int64_t& blocks, std::string& where) const;
  bool KeepsEveryAxis(const std::vector<int32_t>& classes, int64_t blocks,
                      std::string& where) const;
  std::string UniqueName(const std::string& base);
  int32_t UnitOf(int64_t id) const { return id > 0 ? units_[static_cast<size_t>(id)] : -1; }
  int32_t UnitOfClass(int32_t index) const;
  ReadPoint MakePoint(const LabelTracer::Read& read) const;
  void MakeLayerSets();
  void MakeBranches(std::vector<Branch> branches);
  void MakeReads();
  void MakePins();
  void MakeValues();
  void MakeParts();
  /// Whether the axis holds every unit of its groups (in_block: of the block) equally often.
  bool EachAsOften(const std::vector<int32_t>& units, bool in_block) const;
  void SetAxis(ValueShape& shape, size_t axis, std::vector<int32_t> units, bool in_block) const;
  void SetLabels(ValueShape& shape, const Tensor& ids) const;

  const SpaceOptions options_;
  Space space_;
  LabelTracer tracer_;
  std::optional<UnitClasses> classes_;  // once the trace is done
  std::set<std::string> names_;
  std::vector<int32_t> units_;  // by coordinate: its unit, once there are groups; -1 = none
  std::vector<bool> inexact_;   // by class: takes part in a statistic
};

}  // namespace espalier

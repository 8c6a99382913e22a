#pragma once

#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "env/space/label_tracer.h"
#include "env/space/space.h"
#include "env/space/unit_classes.h"

namespace espalier {

/// Chains of reshapes and transposes whose net effect is a permutation of one axis (channel
/// shuffle) become one index_select over a stored list: after a cut, order and counts need not be
/// regular.
Network GatherPermutations(Network network);

/// Turns the tracer's coordinates into units, groups, pins and axis counts.
class SpaceBuilder {
 public:
  SpaceBuilder(Network network, const SpaceOptions& options);
  Space Build();

 private:
  /// (first id of an axis, coordinates on it) for every axis a class touches: classes with the same
  /// pattern couple the same tensors in the same way and compete with each other.
  using Pattern = std::vector<std::pair<int64_t, int64_t>>;

  void Exclude();
  Pattern PatternOf(const std::vector<int64_t>& ids) const;
  void MakeGroups();
  void MakeHeads();
  void AddGroup(const std::vector<int32_t>& classes, int64_t blocks, const std::string& kind);
  void AddMembers(Group& group, const std::vector<int32_t>& classes,
                  const std::vector<std::vector<int64_t>>& ids) const;
  bool OrderByBlocks(std::vector<int32_t>& classes, int64_t& blocks, std::string& where) const;
  std::string UniqueName(const std::string& base);
  int32_t UnitOf(int64_t id) const;
  int32_t UnitOfClass(int32_t index) const;
  ReadPoint MakePoint(const LabelTracer::Read& read) const;
  void MakeLayerSets();
  void MakeReads();
  void MakePins();
  void MakeValues();
  void SetAxis(ValueShape& shape, size_t axis, std::vector<int32_t> units, bool in_block) const;
  void SetLabels(ValueShape& shape, const Tensor& ids) const;

  const SpaceOptions options_;
  Space space_;
  LabelTracer tracer_;
  std::optional<UnitClasses> classes_;  // once the trace is done
  std::set<std::string> names_;
  std::set<int32_t> inexact_;  // classes that take part in a statistic
};

}  // namespace espalier

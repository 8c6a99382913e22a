#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "env/space/label_tracer.h"

namespace espalier {

/// One class of coupled coordinates: what disappears when a single channel disappears.
struct UnitClass {
  int64_t first = 0;             ///< its lowest coordinate
  std::span<const int64_t> ids;  ///< ascending; those of slabs left out
  int32_t reason = -1;           ///< pinned when >= 0: index into the tracer's reasons
  int32_t pattern = 0;           ///< classes with as many coordinates on the same axes share it
  int64_t root = 0;              ///< first coordinate of a root axis; 0 = none
  bool is_slab = false;          ///< a head: goes with all classes of its slabs
  std::vector<int32_t> covered;  ///< is_slab: those classes, ascending
  int32_t parent = -1;           ///< the slab class that covers it
  int32_t unit = -1;             ///< global unit number, once it has one
  bool free() const { return reason < 0 && root > 0 && !is_slab; }
};

/// The tracer's coordinates as classes, with what they owe each other: equal counts in the blocks
/// of an axis that an op splits in two (heads, convolution groups), and heads that go as a whole.
class UnitClasses {
 public:
  explicit UnitClasses(LabelTracer& tracer);

  std::vector<UnitClass>& all() { return classes_; }
  const UnitClass& operator[](int32_t index) const { return classes_[static_cast<size_t>(index)]; }
  UnitClass& operator[](int32_t index) { return classes_[static_cast<size_t>(index)]; }
  int32_t Of(int64_t id) const { return id > 0 ? class_of_[static_cast<size_t>(id)] : -1; }
  const std::string& Reason(int32_t reason) const {
    return tracer_.reasons()[static_cast<size_t>(reason)];
  }
  void Pin(int32_t index, const std::string& reason);

  /// Slabs of classes that must keep equal numbers of classes.
  struct Blocks {
    std::vector<std::vector<int32_t>> slabs;
    std::string where;
  };
  const std::vector<Blocks>& blocks() const { return blocks_; }
  int32_t pattern_count() const { return pattern_count_; }
  /// How a tensor known by its elements is cut: along `axis`, in `blocks` of axis 0 (see Member).
  struct ElementsCut {
    int64_t axis = -1;  ///< -1: its units do not run along one axis, and are pinned
    int64_t blocks = 1;
  };
  ElementsCut CutOf(const CoordinateAxis& elements) const { return cuts_.at(elements.first); }
  /// Classes of a value's labels, [-1 rigid], in the compressed shape.
  Tensor ClassesOf(const Tensor& ids) const;
  int64_t InnerAxis(const Tensor& classes) const;

 private:
  void JoinElements();
  void JoinSlabs();
  void Collect();
  void NumberPatterns();
  ElementsCut FindCut(const CoordinateAxis& elements) const;
  void CheckElements();
  void CollectBlocks();
  void AddBlocks(std::vector<std::vector<int32_t>> slabs, const std::string& where);
  void AddBlocksOfOneKind(std::vector<std::vector<int32_t>> slabs, const std::string& where);
  void CollectSlabs();
  void SettlePins();

  LabelTracer& tracer_;
  std::vector<UnitClass> classes_;
  std::vector<int32_t> class_of_;  // by coordinate id
  std::vector<int64_t> ids_;       // of all classes, class by class
  int32_t pattern_count_ = 0;
  std::map<int64_t, ElementsCut> cuts_;  // by first coordinate
  std::vector<Blocks> blocks_;
};

}  // namespace espalier

#include <algorithm>
#include <map>
#include <numeric>
#include <set>
#include <unordered_map>

#include "env/base/error.h"
#include "env/space/space_builder.h"

// Units that come in blocks of which every one keeps as many: heads, groups of a convolution.

namespace espalier {

/// Brings the classes of one set into the order of its blocks: the largest equal ones of which all
/// blocks that anything asks for are made, so that each of those keeps as many when these do.
/// False, with the reason, when there are none.
bool SpaceBuilder::OrderByBlocks(std::vector<int32_t>& classes, const std::vector<int32_t>& sets,
                                 int64_t& blocks, std::string& where) const {
  const int32_t set = sets[static_cast<size_t>(classes.front())];
  std::unordered_map<int32_t, std::vector<size_t>> slabs_of;  // class -> those that hold it
  size_t slab_count = 0;
  std::string place;
  for (const UnitClasses::Blocks& known : classes_->blocks()) {
    std::set<size_t> lengths;
    for (const auto& slab : known.slabs) {
      size_t length = 0;
      for (const int32_t index : slab)
        if (sets[static_cast<size_t>(index)] == set) {
          slabs_of[index].push_back(slab_count);
          ++length;
        }
      if (length > 0) lengths.insert(length);
      ++slab_count;
    }
    if (lengths.empty()) continue;
    place = known.where;
    where = Str(place, ": blocks of different structure");
    if (lengths.size() > 1) return false;
  }
  if (place.empty()) return true;                             // nothing comes in blocks
  std::map<std::vector<size_t>, std::vector<int32_t>> atoms;  // classes that are in the same slabs
  for (const int32_t index : classes) atoms[slabs_of[index]].push_back(index);
  size_t length = 0, longest = 0;
  std::vector<std::pair<int64_t, const std::vector<int32_t>*>> order;  // by first root
  for (const auto& [slabs, atom] : atoms) {
    length = std::gcd(length, atom.size());
    longest = std::max(longest, atom.size());
    order.push_back({(*classes_)[atom.front()].root, &atom});
  }
  if (length == 1 && longest > 1) return false;
  std::sort(order.begin(), order.end());
  classes.clear();
  for (const auto& [root, atom] : order) classes.insert(classes.end(), atom->begin(), atom->end());
  blocks = static_cast<int64_t>(classes.size() / length);
  where = Str(place, ": each of its blocks has one unit");
  return true;
}

/// Every block keeps a unit. An axis made of less than a block, such as the smaller part of a split
/// inside one, could lose all it has. False, with the reason, when there is one.
bool SpaceBuilder::KeepsEveryAxis(const std::vector<int32_t>& classes, int64_t blocks,
                                  std::string& where) const {
  if (blocks == 1) return true;
  const size_t length = classes.size() / static_cast<size_t>(blocks);
  struct Touched {
    int64_t coordinates = 0;
    std::map<size_t, size_t> units;  ///< by block
  };
  std::map<int32_t, Touched> axes;
  for (size_t i = 0; i < classes.size(); ++i)
    for (const auto& [axis, count] : PatternOf((*classes_)[classes[i]].ids)) {
      Touched& touched = axes[axis];
      touched.coordinates += count;
      ++touched.units[i / length];
    }
  for (const auto& [number, touched] : axes) {
    const CoordinateAxis& axis = tracer_.axes()[static_cast<size_t>(number)];
    const bool whole_block = std::ranges::any_of(
        touched.units, [&](const auto& block) { return block.second == length; });
    if (touched.coordinates < axis.count || whole_block) continue;
    where =
        Str("'", axis.parameter, "' axis ", axis.axis, " is less than a block and could vanish");
    return false;
  }
  return true;
}

}  // namespace espalier

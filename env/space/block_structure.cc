#include <algorithm>
#include <map>
#include <set>

#include "env/base/error.h"
#include "env/space/space_builder.h"

// Units that come in blocks of which every one keeps as many: heads, groups of a convolution.

namespace espalier {
namespace {

/// Blocks that must keep as many classes each, and where that is so.
using Structure = std::pair<std::vector<std::vector<int32_t>>, std::string>;

/// Structures that share a block are one: all their blocks keep as many.
void JoinStructures(std::vector<Structure>& structures) {
  for (bool joined = true; joined;) {
    joined = false;
    for (size_t a = 0; a < structures.size() && !joined; ++a)
      for (size_t b = a + 1; b < structures.size() && !joined; ++b) {
        std::set<std::vector<int32_t>> blocks(structures[a].first.begin(),
                                              structures[a].first.end());
        joined = std::ranges::any_of(structures[b].first,
                                     [&](const auto& block) { return blocks.contains(block); });
        if (!joined) continue;
        blocks.insert(structures[b].first.begin(), structures[b].first.end());
        structures[a].first.assign(blocks.begin(), blocks.end());
        structures.erase(structures.begin() + static_cast<std::ptrdiff_t>(b));
      }
  }
}

}  // namespace

/// Brings the classes of one set into the order of their finest block structure. False, with the
/// reason, when the structures they are in do not nest.
bool SpaceBuilder::OrderByBlocks(std::vector<int32_t>& classes, const std::vector<int32_t>& sets,
                                 int64_t& blocks, std::string& where) const {
  const int32_t set = sets[static_cast<size_t>(classes.front())];
  std::vector<Structure> structures;
  for (const UnitClasses::Blocks& known : classes_->blocks()) {
    std::vector<std::vector<int32_t>> slabs(1);
    for (const auto& slab : known.slabs) {
      for (const int32_t index : slab)
        if (sets[static_cast<size_t>(index)] == set) slabs.back().push_back(index);
      if (!slabs.back().empty()) slabs.emplace_back();
    }
    slabs.pop_back();
    if (slabs.size() > 1) structures.push_back({std::move(slabs), known.where});
  }
  if (structures.empty()) return true;
  JoinStructures(structures);
  std::sort(structures.begin(), structures.end(),
            [](const auto& a, const auto& b) { return a.first.size() > b.first.size(); });
  auto& finest = structures.front().first;
  where = Str(structures.front().second, ": blocks of different structure");
  constexpr auto kNone = static_cast<size_t>(-1);
  std::vector<size_t> slab_of(sets.size(), kNone);  // by class
  size_t in_slabs = 0;
  for (size_t s = 0; s < finest.size(); ++s) {
    in_slabs += finest[s].size();
    for (const int32_t index : finest[s]) {
      if (slab_of[static_cast<size_t>(index)] != kNone) return false;  // in two of them
      slab_of[static_cast<size_t>(index)] = s;
    }
  }
  const size_t length = finest.front().size();
  for (const auto& slab : finest)
    if (slab.size() != length) return false;
  if (in_slabs != classes.size()) return false;  // some units are in no block
  for (const auto& [slabs, place] : structures) {
    where = Str(place, ": blocks of different structure");
    for (const auto& slab : slabs) {
      if (slab.size() != slabs.front().size()) return false;
      std::map<size_t, size_t> parts;
      for (const int32_t index : slab) ++parts[slab_of[static_cast<size_t>(index)]];
      for (const auto& [part, count] : parts)
        if (count != length) return false;
    }
  }
  std::vector<std::pair<int64_t, size_t>> order;  // slabs by their first root
  for (size_t s = 0; s < finest.size(); ++s) {
    int64_t first = (*classes_)[finest[s].front()].root;
    for (const int32_t index : finest[s]) first = std::min(first, (*classes_)[index].root);
    order.push_back({first, s});
  }
  std::sort(order.begin(), order.end());
  std::vector<size_t> rank(finest.size());
  for (size_t i = 0; i < order.size(); ++i) rank[order[i].second] = i;
  std::stable_sort(classes.begin(), classes.end(), [&](int32_t a, int32_t b) {
    return rank[slab_of[static_cast<size_t>(a)]] < rank[slab_of[static_cast<size_t>(b)]];
  });
  blocks = static_cast<int64_t>(finest.size());
  where = Str(structures.front().second, ": each of its blocks has one unit");
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

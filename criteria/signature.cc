#include <algorithm>
#include <map>
#include <set>
#include <string>

#include "criteria/scope.h"
#include "env/base/error.h"
#include "env/base/rng.h"

// The structure of groups, for ranking like with like.

namespace espalier {
namespace {

constexpr int kRounds = 4;  // of colour refinement

/// Groups whose units a value carries.
std::vector<std::set<size_t>> GroupsByValue(const Space& space) {
  std::vector<std::set<size_t>> groups(space.values().size());
  for (size_t value = 0; value < groups.size(); ++value)
    for (const auto& axis : space.values()[value].unit)
      for (const int32_t unit : axis) {
        if (unit < 0) continue;
        groups[value].insert(static_cast<size_t>(space.group_of_unit(unit)));
        const int32_t parent = space.parent_of_unit(unit);
        if (parent >= 0) groups[value].insert(static_cast<size_t>(space.group_of_unit(parent)));
      }
  return groups;
}

/// What an operator is, whatever its sizes.
std::string KindOf(const Network& network, const Op& op) {
  std::string kind = op.handle.operator_name().name;
  if (op.ArgIndex("groups") < 0 || op.ArgIndex("weight") < 0) return kind;
  const int64_t groups = op.Constant("groups").toInt();
  if (groups == 1) return kind;
  const ValueId weight = op.ValueArg("weight");
  const std::string& stored = network.graph.values[static_cast<size_t>(weight)].target;
  const bool depthwise = !stored.empty() && network.store.Get(stored).size(1) == 1;
  return kind + (depthwise ? " depthwise" : " grouped");
}

}  // namespace

std::vector<uint64_t> GroupSignatures(const Space& space) {
  const Network& network = space.network();
  const std::vector<std::set<size_t>> carried = GroupsByValue(space);
  struct Edge {
    size_t from, to;
  };
  struct Structure {
    std::map<size_t, std::string> labels;  // by op
    std::vector<Edge> edges;
  };
  std::vector<Structure> structures(space.groups().size());
  const auto add = [&](const std::set<size_t>& groups, size_t op, const char* side) {
    for (const size_t g : groups) {
      std::string& label = structures[g].labels[op];
      if (label.find(side) == std::string::npos) label += side;
    }
  };
  for (size_t i = 0; i < network.graph.ops.size(); ++i) {
    const Op& op = network.graph.ops[i];
    for (const Use& use : UsesOf(op)) {
      const Value& value = network.graph.values[static_cast<size_t>(use.value)];
      const auto& groups = carried[static_cast<size_t>(use.value)];
      if (!value.target.empty()) continue;  // weights do not say how values flow
      add(groups, i, " in");
      if (value.producer < 0) continue;
      for (const size_t g : groups)
        structures[g].edges.push_back({static_cast<size_t>(value.producer), i});
    }
    for (const ValueId output : op.outputs) add(carried[static_cast<size_t>(output)], i, " out");
  }
  std::vector<uint64_t> signatures;
  for (const Structure& structure : structures) {
    std::map<size_t, uint64_t> colours;
    for (const auto& [op, label] : structure.labels)
      colours[op] = StreamSeed(0, 0, KindOf(network, network.graph.ops[op]) + label);
    for (int round = 0; round < kRounds; ++round) {
      std::map<size_t, std::vector<uint64_t>> around;  // neighbours, with the edge's direction
      for (const Edge& edge : structure.edges) {
        around[edge.to].push_back(StreamSeed(colours[edge.from], 1, "from"));
        around[edge.from].push_back(StreamSeed(colours[edge.to], 2, "to"));
      }
      std::map<size_t, uint64_t> next;
      for (const auto& [op, colour] : colours) {
        std::vector<uint64_t>& near = around[op];
        std::sort(near.begin(), near.end());
        uint64_t hash = colour;
        for (const uint64_t neighbour : near) hash = StreamSeed(hash, neighbour, "near");
        next[op] = hash;
      }
      colours = std::move(next);
    }
    std::vector<uint64_t> all;
    for (const auto& [op, colour] : colours) all.push_back(colour);
    std::sort(all.begin(), all.end());
    uint64_t signature = 0;
    for (const uint64_t colour : all) signature = StreamSeed(signature, colour, "group");
    signatures.push_back(signature);
  }
  return signatures;
}

}  // namespace espalier

#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "env/space/space.h"

namespace espalier {

/// One box, sign or end of a drawn network.
struct SketchNode {
  enum class Look {
    kEnd,    ///< an input or output of the network
    kLayer,  ///< operators that read parameters
    kJoin,   ///< operators that join several values
  };
  Look look = Look::kLayer;
  std::string name;                  ///< of the layer or input; the sign of a join
  std::string type;                  ///< "Conv2d"; of a join: operator and place
  std::string shape;                 ///< "64 -> 128, 3x3 /2"
  std::string block;                 ///< the repeated module it is part of: "layer1.0"; or ""
  std::vector<std::string> merged;   ///< per-channel layers that share the box
  std::set<std::string> parameters;  ///< canonical names, of the merged layers too
  std::string value;                 ///< sizes of what it makes
  /// (group, coordinates) on the labelled axes of what it makes; -1 = coordinates that stay.
  std::vector<std::pair<int32_t, int64_t>> groups;
  std::set<int32_t> from;  ///< nodes it reads, through whatever was contracted
};

/// The network as a person would sketch it: layers, and operators that join several values; a norm
/// or other per-channel layer that alone follows a layer shares its box; everything else, views
/// and activations, is contracted into the edges. In the order of the graph.
std::vector<SketchNode> SketchNetwork(const Space& space);

}  // namespace espalier

#pragma once

#include <cstdint>
#include <string>

#include "env/space/space.h"

namespace espalier {

/// A numbered run of coordinates.
struct CoordinateAxis {
  enum class Kind {
    kAxis,      ///< one axis of a stored tensor
    kElements,  ///< every element of a stored tensor whose prunable axis is not known yet
    kPhantom,   ///< zero padding or a constant made by an operator: no tensor, only literals follow
    kSlab,      ///< one coordinate: a set of coordinates that vanish together, such as a head
  };
  Kind kind = Kind::kAxis;
  std::string parameter{};  ///< canonical name; empty for phantoms and slabs
  int64_t axis = 0;
  int64_t blocks = 1;
  MemberRole role = MemberRole::kChannel;
  int64_t first = 0;  ///< id of coordinate 0
  int64_t count = 0;
  bool is_root = false;  ///< where units are born: weight rows of a layer, columns of an embedding
  std::string layer{};   ///< module path of the op that reads it
};

}  // namespace espalier

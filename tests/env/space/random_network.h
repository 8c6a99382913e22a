#pragma once

#include <cstdint>

#include "env/graph/network.h"

namespace espalier {

/// What a random network is drawn from.
enum class Menu {
  kConvolutional,  ///< convolutions, norms, residual adds, gates, concatenations, zero-padded
                   ///< shortcuts
  kEverything,     ///< these and movement, attention, statistics, transposed and shared layers
  kStacks,         ///< these and products with a matrix for every expert, head or place
};

/// A random directed acyclic network over [2, 3, 8, 8] with five outputs. The same seed and menu
/// give the same network.
Network RandomNetwork(uint64_t seed, Menu menu = Menu::kConvolutional);

}  // namespace espalier

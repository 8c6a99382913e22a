#pragma once

#include <filesystem>
#include <string>

#include "env/cost/cost.h"
#include "env/space/space.h"

namespace espalier {

/// The network in Graphviz's language, as a person would sketch it. Layers (operators that read
/// parameters) are boxes; a norm or other per-channel layer that follows nothing but one layer
/// shares its box; operators that join several values (add, cat, products, attention) are small;
/// everything else is contracted into the edges. The fill is the group of the layer's output,
/// several stripes when it has several, grey when it is pinned; tooltips tell units, what the group
/// governs, and the reasons.
std::string SpaceToDot(const Space& space, const CostModel& cost);

/// Writes the drawing; .svg, .png and .pdf are rendered by Graphviz's `dot`, .dot is its source.
/// Errors: kIo when `dot` is absent or fails; kUsage for another ending.
void WriteGraph(const Space& space, const CostModel& cost, const std::filesystem::path& file);

/// Throws what WriteGraph would throw for this file name: before the long work starts.
void CheckGraphFile(const std::filesystem::path& file);

}  // namespace espalier

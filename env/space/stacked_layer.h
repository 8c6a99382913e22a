#pragma once

#include "env/space/label_rules.h"

namespace espalier {

/// A product with a stack of weights, a matrix for every slice: experts, a small matrix for every
/// head. Axes of the input and of the output by their places there.
struct StackedLayer {
  ValueId input = kNoValue, weight = kNoValue;
  int32_t argument = 0, element = 0;   ///< where the op takes the input
  int64_t input_stack = -1;            ///< -1: all slices read the same
  int64_t input_in = 0;                ///< what is contracted
  int64_t stack = 0, in = 1, out = 2;  ///< of the weight
  int64_t output_stack = -1;           ///< -1: slices are summed up
  int64_t output_out = 0;
};

/// Labels of such a product: columns follow the input, fresh rows are born, apart in every slice
/// where slices stay apart; of slices that are picked at run time (experts by their router) all
/// lose the same. False, and nothing is done, where the weight is not one to be cut along
/// both axes, or the input's labels run along others.
bool RunStackedLayer(const Call& c, const StackedLayer& layer);

}  // namespace espalier

#pragma once

#include <string>
#include <vector>

#include "criteria/criterion.h"
#include "env/graph/builder.h"

namespace espalier {

using Values = std::vector<double>;

inline Tensor MeanOutput(const std::vector<Tensor>& outputs, const Batch&) {
  return outputs.front().mean();
}

/// y = b (a x) with two hidden units; the loss is the mean of y.
///   a = [[1, -2], [3, 0.5]], b = [[2, -1]]
class HandNet {
 public:
  explicit HandNet(double scale = 1) {
    Builder builder("hand", 1);
    const ValueId x = builder.Linear("a", builder.Input("x", {2, 2}), 2, 2, false);
    network_ = builder.Finish({builder.Linear("b", x, 2, 1, false)});
    const auto s = static_cast<float>(scale);
    network_.store.Set("a.weight", at::tensor({1 * s, -2 * s, 3.F, 0.5F}).view({2, 2}));
    network_.store.Set("b.weight", at::tensor({2 / s, -1.F}).view({1, 2}));
    space_ = BuildSpace(network_);
  }
  /// Scores of the two units after one batch for each tensor [B, 2].
  Values Score(const std::string& text, const std::vector<Tensor>& inputs) const {
    std::vector<Batch> batches;
    for (const Tensor& input : inputs) batches.push_back({.inputs = {input}, .targets = {}});
    Calibration calibration = CalibrationOf(batches);
    calibration.loss = MeanOutput;
    const auto criterion = MakeCriterion(text);
    criterion->Adjust(calibration);
    const Statistics statistics =
        CollectStatistics(space_, network_.store, criterion->needs(), calibration);
    return ScoreGroups(*criterion, space_, network_.store, 0, &statistics)[0];
  }
  const Network& network() const { return network_; }
  const Space& space() const { return space_; }

 private:
  Network network_;
  Space space_;
};

inline const Tensor kOne = at::ones({1, 2});                                  // x = (1, 1)
inline const Tensor kBoth = at::tensor({1.F, 1.F, -1.F, -1.F}).view({2, 2});  // x and -x

}  // namespace espalier

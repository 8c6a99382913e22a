#include "search/task_loss.h"

#include <memory>

namespace espalier {

CalibrationLoss TaskLoss(const Environment& environment) {
  const auto objective = std::make_shared<const Objective>(environment.task.MakeSensitivity());
  const auto uncut = std::make_shared<const UncutOutputs>(
      environment.task, objective->Has(kNeedsUncut), environment.device);
  return [objective, uncut](const std::vector<Tensor>& outputs, const Batch& batch) {
    Outcome outcome{batch, outputs};
    outcome.uncut = uncut->Run(batch.inputs);
    return objective->Mean(outcome);
  };
}

}  // namespace espalier

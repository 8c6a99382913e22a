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

std::function<BatchLoss(const Batch& batch)> TaskObjective(const Environment& environment) {
  const auto objective = std::make_shared<const Objective>(environment.task.MakeObjective());
  const auto uncut = std::make_shared<std::unique_ptr<const UncutOutputs>>();
  return [&environment, objective, uncut](const Batch& batch) -> BatchLoss {
    if (!*uncut)  // few criteria ask: no copy of the network for the others
      *uncut = std::make_unique<const UncutOutputs>(environment.task, objective->Has(kNeedsUncut),
                                                    environment.device);
    return [objective, batch, wanted = (*uncut)->Run(batch.inputs)](const auto& outputs) {
      Outcome outcome{batch, outputs};
      outcome.uncut = wanted;
      return objective->Mean(outcome);
    };
  };
}

}  // namespace espalier

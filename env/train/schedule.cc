#include "env/train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "env/base/error.h"

namespace espalier {

double LearningRate(const TrainConfig& config, int64_t step, int64_t steps_per_epoch) {
  constexpr double kStart = 0.01;       // share of lr at which the warm-up starts
  constexpr double kDefaultRise = 0.3;  // share of one_cycle that rises; PyTorch's OneCycleLR
  const double epoch = static_cast<double>(step) / static_cast<double>(steps_per_epoch);
  const auto epochs = static_cast<double>(config.epochs);
  const bool one_cycle = config.schedule == "one_cycle";
  double warmup = config.warmup_epochs;
  if (one_cycle && warmup == 0) warmup = kDefaultRise * epochs;
  if (epoch < warmup) return config.lr * (kStart + (1 - kStart) * epoch / warmup);
  const double share = std::min(1.0, (epoch - warmup) / std::max(epochs - warmup, 1e-12));
  if (one_cycle) return config.lr * (1 - share);
  if (config.schedule == "cosine") return config.lr * (1 + std::cos(std::numbers::pi * share)) / 2;
  if (config.schedule == "step") {
    const auto passed =
        std::count_if(config.milestones.begin(), config.milestones.end(),
                      [&](int64_t milestone) { return epoch >= static_cast<double>(milestone); });
    return config.lr * std::pow(config.gamma, static_cast<double>(passed));
  }
  ESPALIER_CHECK(config.schedule == "constant", "schedule '", config.schedule, "'");
  return config.lr;
}

}  // namespace espalier

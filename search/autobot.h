#pragma once

#include <string>

#include "search/strategy.h"

namespace espalier {

struct AutobotConfig {
  int64_t batches = 200;        ///< Adam steps; the paper: 200 on CIFAR-10, 3000 on ImageNet
  int64_t batch_size = 64;      ///< training samples a step
  double lr = 0.6;              ///< constant; the paper: 0.6 or 0.5 on CIFAR-10, 0.3 on ImageNet
  double beta = 6;              ///< weight of the budget loss; 10 on ImageNet
  double gamma = 0.4;           ///< weight of the binarisation loss; 0.6 on ImageNet (paper logs)
  double initial = 0.9;         ///< lambda of every unit at the start
  double label_smoothing = 0;   ///< 0.1 on ImageNet
  double snapshot_after = 0.6;  ///< fraction of the steps after which the best loss is kept
  std::string threshold =
      "best";                ///< best: nearest that holds the budget; last: the one tested last
  double tolerance = 50000;  ///< threshold search stops this near the bound (MACs)
  int64_t evaluations = 50;  ///< thresholds tried at most
  bool augment = true;       ///< training augmentation
  bool fold_gates = true;    ///< batch norms apply the gates where that is the same function
  int64_t checkpoint_every = 20;  ///< steps between checkpoints
};
Schema Describe(AutobotConfig& config);

/// Finds how many units each group keeps, and which, by training one gate per unit on a few hundred
/// batches while the network's weights stay frozen: cheap, and accurate before any fine-tuning.
///
/// Source   Castells, Yeom, "Automatic Neural Network Pruning that Efficiently Preserves the Model
///          Accuracy", arXiv:2111.09635 (AAAI-23 workshop), and the authors' released code.
/// Symbols  alpha, lambda -> Bottleneck; F, T, M -> cost, Bound::limit, Bound::full;
///          beta, gamma -> config; t -> ThresholdTrial::threshold.
/// Deviates Gates stand at the consumers (see Bottleneck). The task's loss stands in for L_CE.
/// Where
///          several bounds are given, L_F is that of the bound most exceeded. By default the
///          threshold is the best one tried, which holds the budget; threshold = "last" is the
///          released code's, which ends within `tolerance` of it on either side. `tolerance`
///          applies to each kind of bound in its own unit.
/// Random   data order and augmentation from the stream "autobot/data"; no noise.
/// State    checkpoint `autobot.safetensors`: alpha, Adam's moments, snapshot, step.
/// Cost     batches x (forward + backward to activations); no weight gradients.
class Autobot final : public Strategy {
 public:
  explicit Autobot(const AutobotConfig& config) : config_(config) {}
  SearchResult Run(const Environment& environment, SearchContext& context) const override;

 private:
  const AutobotConfig config_;
};

}  // namespace espalier

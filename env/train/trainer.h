#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "env/base/config.h"
#include "env/data/dataset.h"
#include "env/graph/network.h"
#include "env/space/plan.h"

namespace espalier {

struct TrainConfig {
  int64_t epochs = 30;
  int64_t batch_size = 128;
  std::string optimizer = "sgd";      ///< sgd, adamw
  double lr = 0.1;
  double momentum = 0.9;
  bool nesterov = false;
  double weight_decay = 5e-4;
  bool decay_norm_and_bias = true;    ///< PyTorch's default decays everything
  std::string schedule = "cosine";    ///< cosine, step, one_cycle, constant
  std::vector<int64_t> milestones;    ///< step: epochs at which lr is multiplied by gamma
  double gamma = 0.1;
  double warmup_epochs = 0;           ///< linear warm-up from lr/100 (one_cycle: length of the rise)
  double label_smoothing = 0;
  double ema_decay = 0;               ///< 0 = off; the EMA weights are then the result
  std::string precision = "auto";     ///< auto (bf16 when measured faster), fp32, bf16
  bool channels_last = true;
  int64_t limit_batches = 0;          ///< stop each epoch after N batches (tests); 0 = all
};
Schema Describe(TrainConfig& config);

struct EpochRecord {
  int64_t epoch = 0;  ///< 1-based, finished epochs
  double lr = 0, train_loss = 0, train_accuracy = 0, validation_accuracy = 0, seconds = 0;
};

/// Trains a network's parameters in place with the cross-entropy loss.
///
/// State    a checkpoint (`<folder>/checkpoint.safetensors`, atomic) after every epoch and on an
///          interrupt request: weights, optimiser state, EMA, epoch, batch, loss sums. Running again
///          with the same folder continues bit for bit on CPU.
/// Errors   kInterrupted after the checkpoint is written; kData/kModel for a checkpoint of another
///          run; non-finite loss is kTrials with epoch and batch.
/// Random   data order and augmentation from (seed, epoch).
struct TrainResult {
  std::vector<EpochRecord> history;
};
TrainResult Train(Network& network, const Splits& splits, const TrainConfig& config, uint64_t seed,
                  const std::filesystem::path& folder,
                  const std::function<void(const EpochRecord&)>& on_epoch = {});

}  // namespace espalier

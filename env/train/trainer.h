#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "env/base/config.h"
#include "env/data/splits.h"
#include "env/graph/network.h"
#include "env/space/plan.h"
#include "env/task/task.h"
#include "env/train/weight_penalty.h"

namespace espalier {

struct TrainConfig {
  int64_t epochs = 30;
  int64_t batch_size = 128;
  std::string optimizer = "sgd";  ///< sgd, adamw
  double lr = 0.1;
  double momentum = 0.9;
  bool nesterov = false;
  double weight_decay = 5e-4;
  bool decay_norm_and_bias = true;  ///< PyTorch's default decays everything
  std::string schedule = "cosine";  ///< cosine, step, one_cycle, constant
  std::vector<int64_t> milestones;  ///< step: epochs at which lr is multiplied by gamma
  double gamma = 0.1;
  double warmup_epochs = 0;  ///< linear warm-up from lr/100; one_cycle: 0 = 30 % of epochs
  std::string loss = "";     ///< as Task::loss; empty = the task's
  double label_smoothing = 0;
  std::string mode = "train";      ///< train; eval: no dropout, batch norms keep their statistics
  double ema_decay = 0;            ///< 0 = off; the EMA weights are then the result
  std::string precision = "auto";  ///< auto (bf16 when measured faster), fp32, bf16
  bool channels_last = true;
  bool recorded = true;       ///< on a GPU: a step is one launch (a CUDA graph)
  int64_t limit_batches = 0;  ///< stop each epoch after N batches (tests); 0 = all
};
Schema Describe(TrainConfig& config);

struct EpochRecord {
  int64_t epoch = 0;                        ///< 1-based, finished epochs
  double lr = 0;                            ///< of the last step
  double train_loss = 0, train_metric = 0;  ///< mean over the epoch's augmented batches
  double validation_metric = 0;             ///< 0 without validation samples
  double seconds = 0;
};

struct TrainResult {
  std::vector<EpochRecord> history;
};

/// Trains a network's parameters with the task's loss; at the end its store gets fresh tensors, so
/// that other copies of the network, and the network itself on an error, keep theirs.
///
/// State    a checkpoint (`<folder>/checkpoint.safetensors`, atomic) after every epoch and on an
///          interrupt request: weights, optimiser state, EMA, epoch, batch, losses. Running again
///          with the same folder continues bit for bit on CPU (same machine, same threads).
///          An empty folder means no checkpoints. What a penalty remembers is kept with it.
/// Errors   kInterrupted after the checkpoint is written; kData for a damaged checkpoint or one of
///          another training (names what differs); non-finite loss or penalty is kTrials with epoch
///          and batch.
/// Random   data order, augmentation and dropout from (seed, epoch, batch).
TrainResult Train(Network& network, const Splits& splits, const Task& task,
                  const TrainConfig& config, uint64_t seed, const std::filesystem::path& folder,
                  const std::function<void(const EpochRecord&)>& on_epoch = {},
                  WeightPenalty* penalty = nullptr);

}  // namespace espalier

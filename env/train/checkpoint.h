#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "env/train/optimizer.h"
#include "env/train/trainer.h"

namespace espalier {

/// What identifies a training: part ("network", "data", ...) -> hash. A checkpoint is only taken up
/// by a training with equal parts.
using RunIdentity = std::map<std::string, std::string>;
RunIdentity IdentifyRun(const Network& network, const Splits& splits, const Task& task,
                        const TrainConfig& config, uint64_t seed);

/// Where a training stands, beside its tensors.
struct TrainPosition {
  int64_t epoch = 0;      ///< finished epochs
  int64_t batch = 0;      ///< finished batches of the next epoch
  int64_t steps = 0;      ///< optimiser steps
  bool bfloat16 = false;  ///< the decision of precision = "auto" is kept: resuming is bit-exact
  double seconds = 0;     ///< spent on the unfinished epoch
  std::vector<EpochRecord> history;
};

/// One safetensors file, replaced atomically.
void WriteCheckpoint(const std::filesystem::path& path, const RunIdentity& identity,
                     const TrainPosition& position, const std::vector<NamedTensor>& tensors);

/// Copies the file's tensors into `tensors` and returns the position.
/// Errors   kData: damaged or incomplete file, or one of another training (names the parts that
///          differ). `tensors` may then be partly overwritten.
TrainPosition ReadCheckpoint(const std::filesystem::path& path, const RunIdentity& identity,
                             const std::vector<NamedTensor>& tensors);

}  // namespace espalier

#pragma once

#include <nlohmann/json.hpp>

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "env/cost/budget.h"
#include "env/data/splits.h"
#include "env/eval/evaluator.h"
#include "env/space/space.h"
#include "experiments/latency_options.h"
#include "experiments/metric_log.h"
#include "experiments/model_source.h"
#include "experiments/run_config.h"
#include "experiments/run_folder.h"
#include "search/strategy.h"

namespace espalier {

/// One pruning run: train for sparsity, search, cut, fine-tune, verify, measure, report.
///
/// State    the run folder. Every stage leaves a marker with its result when it is done; run again
/// with
///          the same config, finished stages are read back and the one that was interrupted
///          continues from its checkpoint, to the same result (bit for bit on CPU).
/// Random   every stage from (seed, its own purpose).
/// Data     search and fine-tuning see training and validation samples; the test samples are read
/// once,
///          by the measuring stage, for all networks together.
/// Errors   those of its parts; kInterrupted after checkpointing; kInternal when the certificate
/// fails.
class Pipeline {
 public:
  /// Loads network and data, measures latency where it is asked for, and checks the budget; writes
  /// nothing there. folder: of the run, which may be there already: its times count again.
  Pipeline(const RunConfig& config, const std::filesystem::path& folder);

  /// Runs what is left to do. Returns the result as `run --json` prints it.
  nlohmann::ordered_json Run(RunFolder& folder);

  /// The result of a finished run, or nullopt.
  static std::optional<nlohmann::ordered_json> Result(const RunFolder& folder);

 private:
  struct Candidate {  ///< a strategy's choice, cut and refined
    Selection selection;
    Plan plan;
    std::optional<Network> trained;  // the uncut network, when the strategy trained it
    Network cut;                     // right after the cut
    Network refined;                 // equal to `cut` when nothing is refined
  };

  void UseWeights(const Network& network);  ///< what is searched and cut from now on
  Environment MakeEnvironment() const;
  SearchContext MakeContext(const std::string& stage, uint64_t trial);
  void DescribeSpace();
  nlohmann::ordered_json SearchStage(const std::string& stage, const std::string& name,
                                     const Strategy& strategy, uint64_t trial);
  void SparsifyStage();
  /// A plan for every other budget a strategy learned, ready for `espalier apply`.
  void WriteFront(const std::filesystem::path& folder, const nlohmann::json& info) const;
  /// Cuts (and refines, into `stage`) what `search_stage` found.
  Candidate CutStage(const std::string& stage, const std::string& search_stage,
                     const nlohmann::ordered_json& found, uint64_t trial);
  Network Finetune(const Candidate& candidate);
  void Verify(const Candidate& candidate, const Network& final_network);
  void Measure(const Candidate& candidate, const Network& final_network,
               const std::vector<Candidate>& controls);
  nlohmann::ordered_json Measured(const Network& network) const;

  const RunConfig& config_;
  const at::Device device_;
  ModelSource source_;
  std::optional<Network> given_;  // the network as it was before sparsity training
  DataConfig data_;
  std::optional<Splits> splits_;
  Task task_;
  std::optional<Space> space_;
  std::optional<CostModel> cost_;
  std::filesystem::path latency_file_;   // of the run's folder
  std::optional<LatencyStudy> latency_;  // once asked for; whatever the weights
  std::optional<Budget> budget_;

  RunFolder* folder_ = nullptr;
  std::unique_ptr<MetricLog> metrics_;
};

}  // namespace espalier

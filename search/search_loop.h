#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "search/proposer.h"
#include "search/strategy.h"

namespace espalier {

struct SearchLoopConfig {
  int64_t evaluations = 200;          ///< candidates, in whole evaluations
  int64_t samples = 2000;             ///< validation samples of a whole evaluation; 0 = all
  std::string criterion = "l1_norm";  ///< which units a ratio keeps
  std::string precision = "fp32";     ///< of candidate evaluation: fp32, bf16
  bool masked = false;                ///< CandidateOptions::masked
  int64_t compensate_batches = 0;     ///< of training samples that repair a candidate (Compensate)
  int64_t recalibrate_batches = 0;    ///< of training samples, before a candidate is evaluated
  int64_t finetune_batches = 0;       ///< of training samples, likewise, before that
  double finetune_lr = 0.01;
  /// What Proposal::fidelity is a fraction of: samples, recalibration (its batches), finetune.
  std::string fidelity = "samples";
  bool race = true;          ///< drop clear losers of a batch early
  double race_error = 0.05;  ///< RaceOptions::error
  int64_t race_first = 500;  ///< RaceOptions::first
  int64_t batch_size = 250;
  int64_t workers = 0;                 ///< side by side; 0 = by a short measurement
  int64_t threads = 0;                 ///< of each, inside an operator; 0 = likewise
  std::vector<std::string> enqueue{};  ///< "0.5,0.8,..." keep ratios per group, evaluated first
  std::string warm_start{};  ///< trials.jsonl of another search; its best points come first
  int64_t warm_points = 8;   ///< how many
};
Schema Describe(SearchLoopConfig& config);

/// The loop that turns a Proposer into a Strategy: asks, projects, cuts, evaluates, tells.
///
/// Baseline  the uniform ratio is always trial 0: no search ends below it on its own samples.
/// Cost      config.evaluations and no more: of a last batch that takes more the front part.
/// Result    the feasible trial with the highest value among the whole evaluations; ties to the
///           earlier.
/// Samples   the validation split; the test split is never read.
/// State     context.folder/trials.jsonl: a line per finished batch. A killed search is told them
///           again and goes on identically.
/// Errors    kTrials when no feasible candidate could be evaluated, or more than half of 8 or more
///           failed; kConfig for enqueued points that do not fit the network; otherwise as
///           Strategy.
SearchResult RunSearchLoop(const std::string& name, const SearchLoopConfig& config,
                           const std::string& fingerprint, Proposer& proposer,
                           const Environment& environment, SearchContext& context);

/// The loop's keys beside the proposer's own.
template <typename Config>
struct ProposerConfig {
  SearchLoopConfig loop;
  Config own;
};
template <typename Config>
Schema Describe(ProposerConfig<Config>& config) {
  Schema schema = Describe(config.own);
  schema.Append(Describe(config.loop));
  return schema;
}

/// A proposer with its loop, as a strategy.
template <typename Impl, typename Config>
class ProposerStrategy final : public Strategy {
 public:
  explicit ProposerStrategy(const ProposerConfig<Config>& config) : config_(config) {}
  SearchResult Run(const Environment& environment, SearchContext& context) const override {
    Impl proposer(config_.own);
    ProposerConfig<Config> config = config_;
    return RunSearchLoop(Impl::kName, config_.loop, DumpToml("strategy", Describe(config), {}),
                         proposer, environment, context);
  }

 private:
  const ProposerConfig<Config> config_;
};

}  // namespace espalier

/// At the end of a proposer's .cc: makes it a proposer for tests and lists, and a strategy for
/// runs.
#define ESPALIER_REGISTER_PROPOSER(Impl, Config, ...)                                              \
  namespace {                                                                                      \
  const ::espalier::Registration<::espalier::Proposer, Impl, Config> register_##Impl(              \
      ::espalier::EntryInfo __VA_ARGS__);                                                          \
  const ::espalier::Registration<::espalier::Strategy, ::espalier::ProposerStrategy<Impl, Config>, \
                                 ::espalier::ProposerConfig<Config>>                               \
      register_strategy_##Impl(::espalier::EntryInfo __VA_ARGS__);                                 \
  }

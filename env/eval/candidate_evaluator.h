#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "env/eval/candidate_network.h"
#include "env/eval/masked_network.h"
#include "env/eval/race.h"
#include "env/eval/shared_prefixes.h"
#include "env/eval/worker_pool.h"
#include "env/space/plan.h"

namespace espalier {

/// The samples candidates are compared on and what they get for them; in a fixed order, of which
/// every front part is a fair sample of the whole.
class ComparisonSet {
 public:
  virtual ~ComparisonSet() = default;
  virtual int64_t samples() const = 0;
  virtual std::vector<Tensor> Inputs(int64_t first, int64_t count) const = 0;
  /// Larger = better, [count] float32. Errors: kModel when the outputs do not fit.
  virtual Tensor PerSample(const std::vector<Tensor>& outputs, int64_t first,
                           int64_t count) const = 0;
};

struct CandidateOptions {
  int64_t batch_size = 250;  ///< at most: InferenceBatch
  /// Workers that evaluate side by side, and threads of each inside an operator. Both 0: what a
  /// short measurement finds fastest. One of them 0: threads are 1, workers as many as fit.
  int64_t workers = 0, threads = 0;
  at::ScalarType dtype = at::kFloat;
  /// Where candidates run; workers overlap there in queues of their own.
  at::Device device = at::kCPU;
  /// Evaluate candidates at full width with zeros for what is cut, by one recording
  /// (MaskedNetwork); they share nothing then, and one worker evaluates them all.
  bool masked = false;
  bool share_prefixes = true;
  RaceOptions race{};
  /// Done to every cut network before it is evaluated, e.g. batch-norm recalibration; called by
  /// several workers at once. Candidates then run each in a graph of its own and share nothing; all
  /// of one call are in memory together. Empty = nothing.
  std::function<void(Network&, const Selection&)> prepare{};
};

/// What a candidate got.
struct CandidateScore {
  bool failed = false;
  std::string cause{};  ///< of the failure
  /// Mean over its samples, larger = better. Of a dropped one what is to be expected on all: its
  /// mean and what those that stayed gained, on average, on the samples it was spared.
  double value = 0;
  double standard_error = 0;  ///< of that mean
  int64_t samples = 0;
  bool dropped = false;  ///< left the race early: fewer samples than the others
};

/// Evaluates many cuts of a Space on common samples.
///
/// All candidates of a call run batch by batch through one graph; workers take batches. Candidates
/// that agree up to some op share its values. A race drops those that are worse than the best with
/// the confidence options.race states. What was evaluated before is answered from memory.
///
/// Errors   a candidate whose outputs are not finite, or that an operator refuses, is a failed
///          candidate with its cause; kResource when a batch of one sample does not fit in memory;
///          kConfig for masks on a network that they do not fit.
/// Random   none: the same call gives the same values, for any number of workers and, as far as
///          operators add up in the same order for any number of threads, for these; settings that
///          are measured are only taken when outputs are equal to the last bit.
/// Memory   weights of the kept candidates up to 1 GiB, else they are cut again for every batch;
///          for every worker the values of one batch and of the points where candidates part.
/// Threads  one call at a time.
class CandidateEvaluator {
 public:
  /// All must outlive this.
  CandidateEvaluator(const Space& space, const ComparisonSet& set, const CandidateOptions& options);
  ~CandidateEvaluator();

  /// On the first `samples` of the set (0 = all), as one race for the best `keep` (0 = what the
  /// options say).
  std::vector<CandidateScore> Evaluate(std::span<const Selection> candidates, int64_t samples = 0,
                                       int64_t keep = 0);
  CandidateScore Evaluate(const Selection& candidate);

  /// Work done so far, for reports and benchmarks.
  struct Counters {
    int64_t evaluated = 0, remembered = 0, failed = 0;
    int64_t samples = 0;  ///< forwards, in samples; those of shared prefixes count as whole ones
    double shared = 0;    ///< fraction of all ops that were not run because a prefix was shared
    WorkerSetting setting{};  ///< of the last call
  };
  Counters counters() const;

 private:
  struct Candidate;
  struct Totals;
  bool sharing() const { return options_.share_prefixes && !options_.prepare && !masked_; }
  std::vector<const Signature*> SignaturesOf(const std::vector<Candidate*>& candidates) const;
  WorkerSetting SettingFor(int64_t samples);
  void RunBatches(std::vector<Candidate*>& active, int64_t first, int64_t last);
  void RunBatch(const std::vector<Candidate*>& order, int64_t first, int64_t count);
  std::shared_ptr<const CandidateNetwork::Bound> BoundOf(Candidate& candidate);
  void Ready(Candidate& candidate);
  void Fail(Candidate& candidate, const std::string& cause);

  const Space& space_;
  const ComparisonSet& set_;
  CandidateOptions options_;
  CandidateNetwork network_;
  std::optional<MaskedNetwork> masked_;                        // where options ask for it
  std::unordered_map<std::string, std::vector<float>> known_;  // by selection: values so far
  struct Failure {
    std::string cause;
    int64_t samples;  // asked for: fewer may go well
  };
  std::unordered_map<std::string, Failure> failures_;  // by selection
  std::unique_ptr<Totals> totals_;
  std::optional<WorkerSetting> setting_;  // once measured
};

}  // namespace espalier

#include "search/search_loop.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "env/base/files.h"
#include "env/base/log.h"
#include "env/eval/candidate_evaluator.h"
#include "env/eval/task_samples.h"
#include "search/fingerprint.h"
#include "search/trial_journal.h"
#include "search/unit_scores.h"

namespace espalier {

using nlohmann::json;

Schema Describe(SearchLoopConfig& config) {
  Schema schema;
  schema.Add("evaluations", &config.evaluations, "candidates, in whole evaluations", {.low = 1});
  schema.Add("samples", &config.samples, "validation samples of a whole evaluation; 0 = all",
             {.low = 0});
  schema.Add("criterion", &config.criterion,
             "which units a ratio keeps: NAME or NAME(key=value, ...); `espalier list criteria`");
  schema.Add("precision", &config.precision, "of candidate evaluation; bf16 ranks as well, faster",
             {"fp32", "bf16"});
  schema.Add(
      "masked", &config.masked,
      "evaluate at full width with zeros for what is cut: one recording (a CUDA graph) serves "
      "all candidates");
  schema.Add("recalibrate_batches", &config.recalibrate_batches,
             "training batches that re-estimate a candidate's batch norms before it is evaluated; "
             "slower, and nearer to what fine-tuning gives",
             {.low = 0});
  schema.Add("race", &config.race, "drop clear losers of a batch early");
  schema.Add("race_error", &config.race_error,
             "chance to drop a candidate that is as good as those it is compared with",
             RealRange{.low = 0, .high = 1, .open_low = true, .open_high = true});
  schema.Add("race_first", &config.race_first, "samples before the first decision", {.low = 1});
  schema.Add("batch_size", &config.batch_size, "samples in one forward", {.low = 1});
  schema.Add(
      "threads", &config.threads,
      "of each worker inside an operator; 0 = by a short measurement, 1 where workers are set",
      IntRange{.low = 0});
  schema.Add("workers", &config.workers,
             "that evaluate side by side; 0 = by a short measurement, or as many as fit",
             {.low = 0});
  schema.Add("enqueue", &config.enqueue,
             "keep ratios to try first: \"0.5\" for all groups, or one a group with commas");
  schema.Add("warm_start", &config.warm_start, "trials.jsonl of another search to learn from");
  schema.Add("warm_points", &config.warm_points, "how many of its best candidates to try first",
             {.low = 1});
  return schema;
}

std::vector<double> SearchProblem::Point(const Trial& trial) const {
  std::vector<double> point;
  for (size_t g = 0; g < trial.kept.size(); ++g)
    point.push_back(static_cast<double>(trial.kept[g]) / static_cast<double>(cost.units()[g]));
  return point;
}

namespace {

/// "0.5" or "0.5,0.75,...": keep ratios of all groups.
Decision ParsePoint(const std::string& text, size_t groups) {
  Decision decision;
  const char* at = text.data();
  const char* const end = text.data() + text.size();
  while (at < end) {
    double ratio = 0;
    const auto [next, code] = std::from_chars(at, end, ratio);
    const bool ends_well = next == end || (*next == ',' && next + 1 != end);
    if (code != std::errc() || !ends_well || !(ratio > 0 && ratio <= 1))
      throw Error(ErrorKind::kConfig,
                  Str("[strategy] enqueue: '", text, "' is no list of keep ratios in (0, 1]"),
                  "write \"0.5\" or one ratio per group, with commas");
    decision.push_back(ratio);
    at = next == end ? end : next + 1;
  }
  if (decision.size() == 1) decision.resize(groups, decision.front());
  if (decision.size() != groups)
    throw Error(ErrorKind::kConfig,
                Str("[strategy] enqueue: '", text, "' has ", decision.size(),
                    " ratios, the network ", groups, " groups"),
                "`espalier inspect` lists them");
  return decision;
}

class SearchLoop {
 public:
  SearchLoop(const std::string& name, const SearchLoopConfig& config,
             const std::string& fingerprint, Proposer& proposer, const Environment& environment,
             SearchContext& context)
      : name_(name),
        config_(config),
        proposer_(proposer),
        env_(environment),
        context_(context),
        problem_{.cost = environment.cost,
                 .budget = environment.budget,
                 .evaluations = config.evaluations} {
    const Splits& splits = env_.Data(name);
    if (splits.validation().count() == 0)
      throw Error(ErrorKind::kConfig,
                  Str("strategy '", name,
                      "' compares candidates on validation "
                      "samples, and there are none"),
                  "set [data] validation");
    const WidthLimits& limits = env_.budget.limits();
    for (size_t g = 0; g < env_.space.groups().size(); ++g) {
      const auto units = static_cast<double>(env_.cost.units()[g]);
      problem_.low.push_back(static_cast<double>(limits.least[g]) / units);
      problem_.high.push_back(static_cast<double>(limits.most[g]) / units);
    }
    scores_ = ScoreUnits(config.criterion, env_, context, name).scores;
    set_.emplace(splits.validation(), env_.task, env_.network(), config.samples, 0, env_.device);
    CandidateOptions options{
        .batch_size = config.batch_size, .workers = config.workers, .threads = config.threads};
    options.dtype = config.precision == "bf16" ? at::kBFloat16 : at::kFloat;
    options.device = env_.device;
    options.masked = config.masked;
    options.race = {.on = config.race, .first = config.race_first, .error = config.race_error};
    if (config.recalibrate_batches > 0)
      options.prepare = [this, &splits](Network& cut) {
        constexpr int64_t kBatch = 128;  // samples
        Loader loader(splits.train(),
                      {.batch_size = std::min(kBatch, splits.train().count()),
                       .augment = false,
                       .seed = StreamSeed(context_.seed, context_.trial, name_ + "/recalibrate")});
        RecalibrateBatchNorm(cut, loader, config_.recalibrate_batches);
      };
    evaluator_.emplace(env_.space, *set_, options);
    fingerprint_ =
        SearchFingerprint(Str(fingerprint, set_->samples(), "/", env_.task.metric), env_, context_);
  }

  SearchResult Run() {
    const auto start = std::chrono::steady_clock::now();
    Resume();
    if (trials_.empty()) Batch(FirstProposals(), "");
    while (used_ < static_cast<double>(config_.evaluations) - 1e-9 && !proposer_.Done(problem_)) {
      if (context_.StopRequested())
        throw Error(ErrorKind::kInterrupted,
                    Str("search '", name_, "' stopped after ", trials_.size(), " candidates"));
      Rng rng = context_.Stream(Str(name_, "/ask/", batches_));
      std::vector<Proposal> asked = proposer_.Ask(problem_, rng);
      ESPALIER_CHECK(!asked.empty(), "proposer '", name_, "' asks for nothing and is not done");
      Batch(std::move(asked), name_);
      CheckFailures();
    }
    SearchResult result;
    const Trial& best = Best();
    result.selection = SelectTop(env_.space, scores_, best.kept);
    result.scores = scores_;
    result.info = Info(best);
    result.seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return result;
  }

 private:
  std::filesystem::path JournalPath() const { return context_.folder / "trials.jsonl"; }

  void Resume() {
    if (context_.folder.empty() || !std::filesystem::exists(JournalPath())) return;
    TrialJournal journal = ReadJournal(JournalPath());
    if (journal.fingerprint != fingerprint_)
      throw Error(ErrorKind::kData,
                  Str("'", JournalPath().string(), "' is the journal of another search"),
                  "choose another run folder, or remove the file to start over");
    WriteJournal(JournalPath(), journal);  // without a torn line, which would swallow the next one
    for (std::vector<Trial>& batch : journal.batches) Learn(std::move(batch));
    LogInfo(name_, ": continuing after ", trials_.size(), " candidates");
  }

  /// The uniform ratio, the points the user gave, the best of another search.
  std::vector<Proposal> FirstProposals() {
    const size_t groups = problem_.groups();
    std::vector<Proposal> first = {{.decision = Decision(groups, 1.0)}};
    for (const std::string& text : config_.enqueue)
      first.push_back({.decision = ParsePoint(text, groups)});
    if (config_.warm_start.empty()) return first;
    std::vector<Trial> known = ReadTrials(config_.warm_start);
    std::erase_if(known, [](const Trial& t) { return t.failed || t.dropped || !t.feasible; });
    std::stable_sort(known.begin(), known.end(),
                     [](const Trial& a, const Trial& b) { return a.value > b.value; });
    const auto most = static_cast<size_t>(config_.warm_points);
    for (size_t i = 0; i < std::min(most, known.size()); ++i) {
      if (known[i].proposal.decision.size() != groups)
        throw Error(ErrorKind::kConfig,
                    Str("[strategy] warm_start: '", config_.warm_start, "' is of a network with ",
                        known[i].proposal.decision.size(), " groups, this one has ", groups));
      first.push_back({.decision = known[i].proposal.decision});
    }
    return first;
  }

  /// Why a proposal cannot be evaluated; empty when it can.
  std::string Refusal(const Proposal& proposal) const {
    if (proposal.decision.size() != problem_.groups())
      return Str("proposer '", name_, "' gives ", proposal.decision.size(), " ratios for ",
                 problem_.groups(), " groups");
    for (size_t g = 0; g < proposal.decision.size(); ++g)
      if (!(proposal.decision[g] > 0 && proposal.decision[g] <= 1))
        return Str("proposer '", name_, "' leaves (0, 1]: ratio ", proposal.decision[g],
                   " of group '", env_.space.groups()[g].name, "'");
    if (!(proposal.fidelity > 0 && proposal.fidelity <= 1))
      return Str("proposer '", name_, "' asks for the fraction ", proposal.fidelity,
                 " of the samples");
    return {};
  }

  void Batch(std::vector<Proposal> asked, const std::string& origin) {
    std::vector<Trial> batch;
    for (Proposal& proposal : asked) {
      Trial trial{.number = static_cast<int64_t>(trials_.size() + batch.size()),
                  .origin = origin,
                  .proposal = std::move(proposal)};
      if (origin.empty()) trial.origin = batch.empty() ? "uniform" : "enqueued";
      trial.cause = Refusal(trial.proposal);
      trial.failed = !trial.cause.empty();
      if (trial.failed) {
        trial.proposal = {};  // it may hold anything, not only what a journal can
      } else {
        const Decision& decision = trial.proposal.decision;
        trial.kept =
            trial.proposal.as_is ? env_.budget.Nearest(decision) : env_.budget.Project(decision);
        trial.feasible = env_.budget.Feasible(trial.kept);
        std::vector<double> kept(trial.kept.begin(), trial.kept.end());
        trial.cost = env_.cost.Evaluate(kept, env_.budget.convention());
      }
      batch.push_back(std::move(trial));
    }
    Evaluate(batch, /*all_count=*/origin.empty());
    if (!context_.folder.empty()) {
      if (batches_ == 0) WriteJournal(JournalPath(), {fingerprint_, {}});
      AppendBatch(JournalPath(), batch);
    }
    Learn(std::move(batch));
  }

  /// Trials of equal fidelity race against each other.
  void Evaluate(std::vector<Trial>& batch, bool all_count) {
    std::map<double, std::vector<Trial*>> by_fidelity;
    for (Trial& trial : batch)
      if (!trial.failed) by_fidelity[trial.proposal.fidelity].push_back(&trial);
    for (auto& [fidelity, trials] : by_fidelity) {
      std::vector<Selection> selections;
      for (const Trial* trial : trials)
        selections.push_back(SelectTop(env_.space, scores_, trial->kept));
      const auto samples = std::max<int64_t>(
          1, static_cast<int64_t>(std::llround(fidelity * static_cast<double>(set_->samples()))));
      const auto count = static_cast<int64_t>(trials.size());
      const int64_t keep = all_count ? count : proposer_.Wanted(count);
      const auto scores = evaluator_->Evaluate(selections, samples, std::max<int64_t>(keep, 1));
      for (size_t i = 0; i < trials.size(); ++i) {
        Trial& trial = *trials[i];
        trial.failed = scores[i].failed;
        trial.cause = scores[i].cause;
        trial.value = scores[i].value;
        trial.standard_error = scores[i].standard_error;
        trial.samples = scores[i].samples;
        trial.dropped = scores[i].dropped;
      }
    }
  }

  void Learn(std::vector<Trial> batch) {
    proposer_.Tell(problem_, batch);
    for (Trial& trial : batch) {
      used_ += trial.proposal.fidelity;
      if (Counts(trial) && (!best_ || trial.value > best_->value)) best_ = trial;
      if (trial.failed) {
        ++failed_;
        LogWarning(name_, ": candidate ", trial.number, " failed: ", trial.cause);
      } else {
        context_.Report(trial.number, "candidate", trial.value);
      }
      if (best_) context_.Report(trial.number, "best", best_->value);
      trials_.push_back(std::move(trial));
    }
    ++batches_;
    const auto done = std::min(static_cast<int64_t>(used_ + 1e-9), config_.evaluations);
    context_.Advance(done, config_.evaluations,
                     best_ ? Str("best ", best_->value) : std::string("none yet"));
  }

  /// Whether a trial may be the result: within the budget, on all samples.
  bool Counts(const Trial& trial) const {
    return !trial.failed && trial.feasible && !trial.dropped && trial.samples == set_->samples();
  }

  void CheckFailures() const {
    constexpr size_t kEnough = 8;
    if (trials_.size() >= kEnough && 2 * failed_ > trials_.size())
      throw Error(ErrorKind::kTrials, Str(failed_, " of ", trials_.size(), " candidates of '",
                                          name_, "' failed; the last because: ", LastCause()));
  }

  std::string LastCause() const {
    for (auto trial = trials_.rbegin(); trial != trials_.rend(); ++trial)
      if (trial->failed) return trial->cause;
    return "none failed, but none is within the budget on all samples";
  }

  const Trial& Best() const {
    if (!best_)
      throw Error(ErrorKind::kTrials,
                  Str("search '", name_, "' found no candidate among ", trials_.size(),
                      "; the last failed because: ", LastCause()));
    return *best_;
  }

  json Info(const Trial& best) const {
    const auto counters = evaluator_->counters();
    std::set<std::vector<int64_t>> distinct;
    int64_t dropped = 0;
    for (const Trial& trial : trials_) {
      distinct.insert(trial.kept);
      dropped += trial.dropped;
    }
    return {{"criterion", config_.criterion},
            {"precision", config_.precision},
            {"samples", set_->samples()},
            {"candidates", trials_.size()},
            {"distinct", distinct.size()},
            {"failed", failed_},
            {"dropped", dropped},
            {"evaluations", used_},
            {"forwards", counters.samples},
            {"shared", counters.shared},
            {"uniform", trials_.front().value},
            {"best",
             {{"trial", best.number},
              {"origin", best.origin},
              {"value", best.value},
              {"standard_error", best.standard_error}}}};
  }

  const std::string name_;
  const SearchLoopConfig& config_;
  Proposer& proposer_;
  const Environment& env_;
  SearchContext& context_;
  SearchProblem problem_;
  std::vector<std::vector<double>> scores_;
  std::optional<TaskSamples> set_;
  std::optional<CandidateEvaluator> evaluator_;
  std::string fingerprint_;

  std::vector<Trial> trials_;
  std::optional<Trial> best_;
  int64_t batches_ = 0;
  size_t failed_ = 0;
  double used_ = 0;  // whole evaluations
};

}  // namespace

SearchResult RunSearchLoop(const std::string& name, const SearchLoopConfig& config,
                           const std::string& fingerprint, Proposer& proposer,
                           const Environment& environment, SearchContext& context) {
  return SearchLoop(name, config, fingerprint, proposer, environment, context).Run();
}

}  // namespace espalier

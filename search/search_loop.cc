#include "search/search_loop.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "env/base/clock.h"
#include "env/base/files.h"
#include "env/base/log.h"
#include "env/eval/candidate_evaluator.h"
#include "env/eval/task_samples.h"
#include "search/fingerprint.h"
#include "search/first_points.h"
#include "search/pareto.h"
#include "search/preparation.h"
#include "search/trial_journal.h"
#include "search/unit_scores.h"

namespace espalier {

using nlohmann::json;

std::vector<double> SearchProblem::Point(const Trial& trial) const {
  std::vector<double> point;
  for (size_t g = 0; g < trial.kept.size(); ++g)
    point.push_back(static_cast<double>(trial.kept[g]) / static_cast<double>(cost.units()[g]));
  return point;
}

namespace {

constexpr double kRounding = 1e-9;  // of sums of fidelities

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
                 .evaluations = config.evaluations,
                 .seed = StreamSeed(context.seed, context.trial, name)} {
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
    EvaluatorFor(1);
    fingerprint_ =
        SearchFingerprint(Str(fingerprint, set_->samples(), "/", env_.task.metric), env_, context_);
  }

  SearchResult Run() {
    Resume();
    if (trials_.empty()) Batch(FirstPoints(config_, problem_.groups()), "");
    while (used_ < static_cast<double>(config_.evaluations) - kRounding &&
           !proposer_.Done(problem_)) {
      if (context_.StopRequested())
        throw Error(ErrorKind::kInterrupted,
                    Str("search '", name_, "' stopped after ", trials_.size(), " candidates"));
      Rng rng = context_.Stream(Str(name_, "/ask/", batches_));
      std::vector<Proposal> asked = proposer_.Ask(problem_, rng);
      ESPALIER_CHECK(!asked.empty(), "proposer '", name_, "' asks for nothing and is not done");
      asked = Affordable(std::move(asked));
      if (asked.empty()) break;
      Batch(std::move(asked), name_);
      CheckFailures();
    }
    SearchResult result;
    const Trial& best = Best();
    result.selection = SelectTop(env_.space, scores_, best.kept);
    result.scores = scores_;
    result.info = Info(best);
    result.seconds = Seconds();
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
    before_ = journal.work;
    LogInfo(name_, ": continuing after ", trials_.size(), " candidates");
  }

  double Seconds() const { return before_.seconds + timer_.Seconds(); }
  SearchWork Work() const {
    SearchWork work{.seconds = Seconds(), .forwards = before_.forwards};
    for (const auto& [amount, evaluator] : evaluators_)
      work.forwards += evaluator->counters().samples;
    return work;
  }

  /// The one that prepares candidates with a fraction of what config.fidelity is about.
  CandidateEvaluator& EvaluatorFor(double fidelity) {
    const double amount = config_.fidelity == "samples" ? 1 : fidelity;
    auto& evaluator = evaluators_[amount];
    if (evaluator) return *evaluator;
    CandidateOptions options{
        .batch_size = config_.batch_size, .workers = config_.workers, .threads = config_.threads};
    options.dtype = config_.precision == "bf16" ? at::kBFloat16 : at::kFloat;
    options.device = env_.device;
    options.masked = config_.masked;
    options.race = {.on = config_.race, .first = config_.race_first, .error = config_.race_error};
    options.prepare = Preparation(name_, config_, env_, context_, amount);
    evaluator = std::make_unique<CandidateEvaluator>(env_.space, *set_, options);
    return *evaluator;
  }

  /// As many of a batch, from the front, as the evaluations that are left pay for.
  std::vector<Proposal> Affordable(std::vector<Proposal> asked) const {
    double used = used_;
    size_t count = 0;
    for (; count < asked.size(); ++count) {
      const double fidelity = asked[count].fidelity;
      used += fidelity > 0 && fidelity <= 1 ? fidelity : 1;  // as Learn counts a refused one
      if (used > static_cast<double>(config_.evaluations) + kRounding) break;
    }
    asked.resize(count);
    return asked;
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
      if (batches_ == 0) WriteJournal(JournalPath(), {.fingerprint = fingerprint_});
      AppendBatch(JournalPath(), batch, Work());
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
      const double share = config_.fidelity == "samples" ? fidelity : 1;
      const auto samples = std::max<int64_t>(
          1, static_cast<int64_t>(std::llround(share * static_cast<double>(set_->samples()))));
      const auto count = static_cast<int64_t>(trials.size());
      const int64_t keep = all_count ? count : proposer_.Wanted(count);
      const auto scores =
          EvaluatorFor(fidelity).Evaluate(selections, samples, std::max<int64_t>(keep, 1));
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
    const auto done = std::min(static_cast<int64_t>(used_ + kRounding), config_.evaluations);
    context_.Advance(done, config_.evaluations,
                     best_ ? Str("best ", best_->value) : std::string("none yet"));
  }

  /// Whether a trial may be the result: within the budget, as a whole evaluation.
  bool Counts(const Trial& trial) const {
    return !trial.failed && trial.feasible && !trial.dropped && trial.proposal.fidelity == 1 &&
           trial.samples == set_->samples();
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
            {"forwards", Work().forwards},
            {"shared", evaluators_.at(1)->counters().shared},
            {"uniform", trials_.front().value},
            {"trade_off", TradeOff()},
            {"measured", MeasuredWhen(config_)},
            {"best",
             {{"trial", best.number},
              {"origin", best.origin},
              {"value", best.value},
              {"standard_error", best.standard_error}}}};
  }

  /// The whole evaluations within the budget that no other beats in value and MACs, cheapest first;
  /// values in the metric's own direction.
  json TradeOff() const {
    const double sign = HasFact(env_.task.metric, kLowerIsBetter) ? -1 : 1;
    std::vector<const Trial*> counted;
    std::vector<std::vector<double>> objectives;
    for (const Trial& trial : trials_) {
      if (!Counts(trial)) continue;
      counted.push_back(&trial);
      objectives.push_back({trial.value, -trial.cost.macs});
    }
    const std::vector<int64_t> ranks = NonDominatedRanks(objectives);
    std::map<double, const Trial*> front;  // equal ones once
    for (size_t i = 0; i < counted.size(); ++i)
      if (ranks[i] == 0) front.try_emplace(counted[i]->cost.macs, counted[i]);
    json points = json::array();
    for (const auto& [macs, trial] : front)
      points.push_back({{"trial", trial->number},
                        {"value", sign * trial->value},
                        {"macs", macs},
                        {"params", trial->cost.params},
                        {"kept", trial->kept}});
    return {{"metric", env_.task.metric}, {"points", points}};
  }

  const std::string name_;
  const SearchLoopConfig& config_;
  Proposer& proposer_;
  const Environment& env_;
  SearchContext& context_;
  SearchProblem problem_;
  std::vector<std::vector<double>> scores_;
  std::optional<TaskSamples> set_;
  std::map<double, std::unique_ptr<CandidateEvaluator>> evaluators_;  // by amount of preparation
  std::string fingerprint_;

  const Timer timer_;
  SearchWork before_;  // of the calls that this one continues
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

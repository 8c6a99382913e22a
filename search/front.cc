#include "search/front.h"

#include <algorithm>
#include <deque>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>

#include "criteria/criterion.h"
#include "criteria/scope.h"
#include "env/base/clock.h"
#include "env/base/log.h"
#include "env/eval/candidate_evaluator.h"
#include "env/eval/task_samples.h"
#include "search/fingerprint.h"
#include "search/front_forecast.h"
#include "search/front_journal.h"
#include "search/front_marginals.h"
#include "search/preparation.h"
#include "search/unit_scores.h"

namespace espalier {

using nlohmann::json;

Schema Describe(FrontConfig& config) {
  const RealRange share{.low = 0, .high = 1, .open_low = true};
  Schema schema;
  schema.Add("budgets", &config.budgets, "fractions of the first bounded cost to make plans for");
  schema.Add(
      "method", &config.method,
      "marginals: what cutting each group alone does, with learned scales; legr: the "
      "criterion's scores, with learned scales and shifts; criterion: the scores as they are",
      {"marginals", "legr", "criterion"});
  schema.Add("criterion", &config.criterion, "ranks units; NAME or NAME(key=value, ...)");
  schema.Add("per_cost", &config.per_cost, "divide scores by what removing a unit saves");
  schema.Add("evaluations", &config.evaluations,
             "candidates; an order evaluated at k budgets counts k", {.low = 1});
  schema.Add("samples", &config.samples, "validation samples of the search; 0 = all", {.low = 0});
  schema.Add("compensate_batches", &config.compensate_batches,
             "training batches of 128 that a cut network's layers are fitted to the uncut one on "
             "before it is judged",
             {.low = 0});
  schema.Add("precision", &config.precision, "of candidate evaluation", {"fp32", "bf16"});
  schema.Add("population", &config.population, "orders that may become parents; the paper: 64",
             {.low = 2});
  schema.Add("tournament", &config.tournament, "of which the best is a parent; the paper: 16",
             {.low = 1});
  schema.Add("mutate", &config.mutate, "share of the groups that a mutation changes", share);
  schema.Add("sigma", &config.sigma, "of the logarithm of a changed scale",
             RealRange{.low = 0, .open_low = true});
  return schema;
}

namespace {

/// The bound that a budget's fractions speak of, alone.
BudgetConfig Fraction(const BudgetConfig& own, double fraction) {
  BudgetConfig config = own;
  bool found = false;
  for (const CostKind kind : kCostKinds) {
    config.bound(kind).reset();
    if (!found && own.bound(kind)) config.bound(kind) = Quantity{fraction, true};
    found = found || own.bound(kind).has_value();
  }
  return config;
}

class FrontSearch {
 public:
  FrontSearch(const FrontConfig& config, const Environment& environment, SearchContext& context)
      : config_(config), env_(environment), context_(context) {
    env_.Data("front");
    if (env_.budget.bounds().empty())
      throw Error(ErrorKind::kConfig, "strategy 'front' needs a budget to make fractions of",
                  "set [budget] macs, params, activation_bytes or latency_ms");
    for (const double fraction : config.budgets) {
      if (!(fraction > 0 && fraction <= 1))
        throw Error(ErrorKind::kConfig,
                    Str("[strategy] budgets holds ", fraction, ", allowed: fractions in (0, 1]"));
      budgets_.push_back(
          std::make_unique<Budget>(env_.cost, Fraction(env_.budget.config(), fraction)));
    }
    ScoreAllUnits();
    repair_.compensate_batches = config.compensate_batches;
    const auto prepare = Preparation("front", repair_, env_, context_, 1);
    forecaster_.emplace(env_, config.samples, context_.Stream("front/samples"), prepare);
    set_.emplace(forecaster_->searched(), env_.task, env_.network(), 0, 0, env_.device);
    CandidateOptions options{.device = env_.device};
    options.dtype = config.precision == "bf16" ? at::kBFloat16 : at::kFloat;
    options.race.on = false;
    options.prepare = prepare;
    evaluator_.emplace(env_.space, *set_, options);
    Fingerprint();
  }

  SearchResult Run() {
    Resume();
    if (config_.method == "marginals") ScoreByMarginals();
    if (!best_) {
      if (!context_.folder.empty()) WriteFrontJournal(JournalPath(), {fingerprint_, damage_});
      Evaluate(Starts());
    }
    while (config_.method != "criterion" && Left() >= Cuts()) {
      ThrowIfStopped();
      NextGeneration();
    }
    SearchResult result = Result();
    result.seconds = Seconds();
    return result;
  }

 private:
  /// Wall time of this search, over all resumes.
  double Seconds() const { return seconds_before_ + timer_.Seconds(); }

  void ThrowIfStopped() const {
    if (context_.StopRequested())
      throw Error(ErrorKind::kInterrupted, Str("'front' stopped after ", used_, " candidates"));
  }

  void ScoreAllUnits() {
    raw_ = ScoreUnits(config_.criterion, env_, context_, "front").scores;
    scores_ = raw_;
    if (config_.per_cost) {
      const std::vector<double> costs = UnitCosts(env_.cost, env_.budget);
      for (size_t g = 0; g < scores_.size(); ++g)
        for (double& score : scores_[g])
          if (costs[g] > 0) score /= costs[g];
    }
  }

  /// Candidates that only told how sensitive groups are; with the uncut network.
  int64_t Probed() const { return damage_.empty() ? 0 : static_cast<int64_t>(damage_.size()) + 1; }

  /// Instead of the criterion's, which still says which units of a group go first.
  void ScoreByMarginals() {
    const std::vector<double> costs = UnitCosts(env_.cost, env_.budget);
    const std::vector<Probe> probes =
        ProbesOf(env_.budget, env_.cost.units(), costs, config_.evaluations / 2);
    if (damage_.empty()) {
      damage_ = DamageOf(probes, env_.space, raw_, *evaluator_);
      used_ = Probed();
    }
    if (damage_.size() != probes.size())
      throw Error(ErrorKind::kData,
                  Str("'", JournalPath().string(), "' holds the damage of ", damage_.size(),
                      " cuts, this search makes ", probes.size()),
                  "the file is damaged; remove it to start over");
    scores_ = MarginalScores(probes, damage_, env_.cost.units(), costs);
  }

  /// Scores as they are; and, where maps are learned, an order that takes groups to be alike, so
  /// that none is emptied.
  std::vector<FrontOrder> Starts() const {
    std::vector<FrontOrder> starts = {PlainOrder(scores_.size())};
    if (config_.method == "marginals") starts.push_back(EqualTopOrder(scores_));
    if (config_.method == "legr") starts.push_back(LevelOrder(scores_));
    return starts;
  }

  void Fingerprint() {
    FrontConfig config = config_;
    const std::string settings =
        Str(DumpToml("strategy", Describe(config), {}), env_.task.metric, "/", set_->samples());
    fingerprint_ = SearchFingerprint(settings, env_, context_);
  }

  std::filesystem::path JournalPath() const { return context_.folder / "front.jsonl"; }

  void Resume() {
    if (context_.folder.empty() || !std::filesystem::exists(JournalPath())) return;
    std::optional<FrontJournal> journal = ReadFrontJournal(JournalPath());
    if (!journal) return;
    if (journal->fingerprint != fingerprint_)
      throw Error(ErrorKind::kData,
                  Str("'", JournalPath().string(), "' is the journal of another search"),
                  "choose another run folder, or remove the file to start over");
    // Without a torn line, which would swallow the next one.
    WriteFrontJournal(JournalPath(), *journal);
    damage_ = journal->damage;
    used_ = Probed();
    for (FrontGeneration& generation : journal->generations) {
      for (const FrontOrder& order : generation.orders)
        if (order.scale.size() != raw_.size() || order.shift.size() != raw_.size() ||
            order.values.size() != cuts())
          throw Error(ErrorKind::kData,
                      Str("'", JournalPath().string(), "' holds an order of ", order.scale.size(),
                          " groups at ", order.values.size(), " budgets, this search has ",
                          raw_.size(), " and ", cuts()),
                      "the file is damaged; remove it to start over");
      seconds_before_ = generation.seconds;
      Learn(std::move(generation.orders), generation.left_out);
    }
    LogInfo("front: continuing after ", used_, " candidates");
  }

  /// Kept counts where the order is cut so that a budget holds: the largest share that does.
  std::vector<int64_t> CutAt(const FrontOrder& order, const Budget& budget) const {
    const Scores mapped = order.Of(scores_);
    const std::vector<int64_t> one_class(mapped.size(), 0);
    const auto kept = [&](double share) {
      const std::vector<int64_t> counts = CountsAtShare(mapped, one_class, share);
      Decision ratios;
      for (size_t g = 0; g < counts.size(); ++g)
        ratios.push_back(static_cast<double>(counts[g]) /
                         static_cast<double>(env_.cost.units()[g]));
      return budget.Nearest(ratios);
    };
    double low = 0, high = 1;
    if (budget.Feasible(kept(1))) return kept(1);
    constexpr int kBisections = 40;
    for (int i = 0; i < kBisections; ++i) {
      const double middle = (low + high) / 2;
      (budget.Feasible(kept(middle)) ? low : high) = middle;
    }
    return kept(low);
  }

  size_t cuts() const { return budgets_.size() + 1; }
  int64_t Cuts() const { return static_cast<int64_t>(cuts()); }
  int64_t Left() const { return config_.evaluations - used_; }

  /// Cuts at all budgets, the run's own last.
  std::vector<std::vector<int64_t>> CutEverywhere(const FrontOrder& order) const {
    std::vector<std::vector<int64_t>> cuts;
    for (const auto& budget : budgets_) cuts.push_back(CutAt(order, *budget));
    cuts.push_back(CutAt(order, env_.budget));
    return cuts;
  }

  const FrontOrder& Parent(Rng& rng) const {
    const FrontOrder* best = nullptr;
    for (int64_t i = 0; i < config_.tournament; ++i) {
      const FrontOrder& drawn = population_[rng.Index(population_.size())];
      if (best == nullptr || drawn.fitness() > best->fitness()) best = &drawn;
    }
    return *best;
  }

  /// Many children at the run's own budget, the best of them at all others.
  void NextGeneration() {
    constexpr int64_t kChildren = 8, kTaken = 2;
    Rng rng = context_.Stream(Str("front/order/", generation_));
    const Mutation mutation{config_.mutate, config_.sigma, config_.method == "legr"};
    const int64_t taken = std::clamp<int64_t>(Left() / Cuts(), 1, kTaken);
    std::vector<FrontOrder> children;
    std::vector<Selection> selections;
    for (int64_t i = 0; i < std::min(kChildren, Left() - taken * (Cuts() - 1)); ++i) {
      children.push_back(Mutated(Parent(rng), scores_, mutation, rng));
      selections.push_back(SelectTop(env_.space, raw_, CutAt(children.back(), env_.budget)));
    }
    const std::vector<CandidateScore> scores = evaluator_->Evaluate(selections);
    std::vector<size_t> order(children.size());
    std::iota(order.begin(), order.end(), size_t{0});
    const auto value = [&](size_t i) { return scores[i].failed ? kFailed : scores[i].value; };
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return value(a) > value(b); });
    std::vector<FrontOrder> best;
    for (int64_t i = 0; i < taken; ++i) best.push_back(children[order[static_cast<size_t>(i)]]);
    Evaluate(std::move(best), static_cast<int64_t>(children.size()) - taken);
  }

  /// left_out: other orders that one candidate each was spent on.
  void Evaluate(std::vector<FrontOrder> orders, int64_t left_out = 0) {
    std::vector<Selection> selections;
    for (const FrontOrder& order : orders)
      for (const auto& kept : CutEverywhere(order))
        selections.push_back(SelectTop(env_.space, raw_, kept));
    const auto scores = evaluator_->Evaluate(selections);
    for (size_t i = 0; i < orders.size(); ++i)
      for (size_t b = 0; b < cuts(); ++b) {
        const CandidateScore& score = scores[i * cuts() + b];
        if (score.failed) cause_ = score.cause;
        orders[i].values.push_back(score.failed ? kFailed : score.value);
      }
    if (!context_.folder.empty()) AppendGeneration(JournalPath(), {orders, left_out, Seconds()});
    Learn(std::move(orders), left_out);
  }

  /// An order is of no use where it failed at the run's own budget.
  static bool Better(const FrontOrder& order, const FrontOrder& than) {
    const bool useful = order.values.back() > kFailed, known = than.values.back() > kFailed;
    return useful != known ? useful : order.fitness() > than.fitness();
  }

  void Learn(std::vector<FrontOrder> orders, int64_t left_out) {
    used_ += left_out;
    tried_ += left_out + static_cast<int64_t>(orders.size());
    for (FrontOrder& order : orders) {
      used_ += Cuts();
      if (!best_ || Better(order, *best_)) best_ = order;
      context_.Report(used_, "best mean over budgets", best_->fitness());
      population_.push_back(std::move(order));
      if (static_cast<int64_t>(population_.size()) > config_.population) population_.pop_front();
    }
    ++generation_;
    context_.Advance(std::min(used_, config_.evaluations), config_.evaluations,
                     Str("mean over budgets ", best_->fitness()));
  }

  /// A plan for the result, with its forecast. b: of budgets_, the run's own last.
  json Row(size_t b, const std::vector<int64_t>& kept, const Selection& selection) const {
    const Cost cost =
        env_.cost.Evaluate(std::vector<double>(kept.begin(), kept.end()), env_.budget.convention());
    const bool own = b == budgets_.size();
    json row = {{"own_budget", own},     {"macs", cost.macs},
                {"params", cost.params}, {"activation_bytes", cost.activation_bytes},
                {"kept", selection},     {"searched_value", nullptr},
                {"forecast", nullptr},   {"low", nullptr},
                {"high", nullptr}};
    if (!own) row["budget"] = config_.budgets[b];
    Forecast forecast;
    if (best_->values[b] <= kFailed)
      forecast.cause = Str("the search could not evaluate it: ", cause_);
    else
      forecast = forecaster_->Of(selection);
    if (!forecast.cause.empty()) {
      row["cause"] = forecast.cause;
      LogWarning("front: ", own ? std::string("own budget") : Str("budget ", config_.budgets[b]),
                 ": no forecast: ", forecast.cause);
      return row;
    }
    row["searched_value"] = forecast.searched;
    row["forecast"] = forecast.value;
    if (forecast.interval) {
      row["low"] = forecast.interval->low;
      row["high"] = forecast.interval->high;
    }
    return row;
  }

  SearchResult Result() const {
    if (best_->values.back() <= kFailed)
      throw Error(ErrorKind::kTrials,
                  Str("'front' could evaluate no order at the run's own budget; the last failed "
                      "because: ",
                      cause_));
    const std::vector<std::vector<int64_t>> kept = CutEverywhere(*best_);
    SearchResult result;
    json front = json::array();
    for (size_t b = 0; b < cuts(); ++b) {
      ThrowIfStopped();
      result.selection = SelectTop(env_.space, raw_, kept[b]);  // the run's own comes last
      front.push_back(Row(b, kept[b], result.selection));
    }
    result.scores = raw_;
    result.info = {{"criterion", config_.criterion},
                   {"method", config_.method},
                   {"candidates", used_},
                   {"orders", tried_},
                   {"samples", set_->samples()},
                   {"metric", env_.task.metric},
                   {"unseen", forecaster_->unseen()},
                   {"forecast_on", forecaster_->Source()},
                   {"measured", MeasuredWhen(repair_)},
                   {"front", front}};
    return result;
  }

  static constexpr double kFailed = -1e30;  // value of a candidate that failed
  const FrontConfig& config_;
  const Environment& env_;
  SearchContext& context_;
  const Timer timer_;
  SearchLoopConfig repair_;    // what is done to cuts before they are judged
  double seconds_before_ = 0;  // of the calls that this one continues
  std::vector<std::unique_ptr<Budget>> budgets_;
  Scores raw_, scores_;  // [groups][units]; the latter per cost, which the order is made of
  std::optional<Forecaster> forecaster_;
  std::optional<TaskSamples> set_;
  std::optional<CandidateEvaluator> evaluator_;
  std::string fingerprint_, cause_;
  std::vector<double> damage_;  // [probes]

  std::deque<FrontOrder> population_;  // oldest first
  std::optional<FrontOrder> best_;
  int64_t used_ = 0, tried_ = 0, generation_ = 0;  // candidates, orders, generations
};

}  // namespace

Front::Front(const FrontConfig& config) : config_(config) { MakeCriterion(config.criterion); }

SearchResult Front::Run(const Environment& environment, SearchContext& context) const {
  return FrontSearch(config_, environment, context).Run();
}

ESPALIER_REGISTER_STRATEGY(Front, FrontConfig,
                           {.name = "front",
                            .summary = "one learned order of all units, cut at every budget",
                            .source = "arXiv:1904.12368, algorithm 1",
                            .facts = {kNeedsData, "deterministic"}})

}  // namespace espalier

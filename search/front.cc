#include "search/front.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <deque>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>

#include "criteria/criterion.h"
#include "criteria/scope.h"
#include "env/base/files.h"
#include "env/base/log.h"
#include "env/eval/candidate_evaluator.h"
#include "env/eval/task_samples.h"
#include "search/fingerprint.h"
#include "search/unit_scores.h"

namespace espalier {

using nlohmann::json;

Schema Describe(FrontConfig& config) {
  const RealRange share{.low = 0, .high = 1, .open_low = true};
  Schema schema;
  schema.Add("budgets", &config.budgets, "fractions of the first bounded cost to make plans for");
  schema.Add("method", &config.method,
             "legr: learned scale and shift per group; criterion: the scores as they are",
             {"legr", "criterion"});
  schema.Add("criterion", &config.criterion, "ranks units; NAME or NAME(key=value, ...)");
  schema.Add("per_cost", &config.per_cost, "divide scores by what removing a unit saves");
  schema.Add("evaluations", &config.evaluations,
             "candidates; an order evaluated at k budgets counts k", {.low = 1});
  schema.Add("samples", &config.samples, "validation samples of the search; 0 = all", {.low = 0});
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

/// An order of all units, and what it was worth.
struct Order {
  std::vector<double> scale, shift;  // [groups]
  std::vector<double> values{};      // [budgets]
  double fitness() const {
    return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
  }
};

/// The bound that a budget's fractions speak of, alone.
BudgetConfig Fraction(const BudgetConfig& own, double fraction) {
  BudgetConfig config = own;
  config.macs.reset();
  config.params.reset();
  config.activation_bytes.reset();
  config.latency_ms.reset();
  const Quantity quantity{fraction, true};
  if (own.macs)
    config.macs = quantity;
  else if (own.params)
    config.params = quantity;
  else if (own.activation_bytes)
    config.activation_bytes = quantity;
  else
    config.latency_ms = quantity;
  return config;
}

class FrontSearch {
 public:
  FrontSearch(const FrontConfig& config, const Environment& environment, SearchContext& context)
      : config_(config), env_(environment), context_(context) {
    const Splits& splits = env_.Data("front");
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
    Score();
    set_.emplace(splits.validation(), env_.task, env_.network(), config.samples, 0, env_.device);
    CandidateOptions options{.device = env_.device};
    options.dtype = config.precision == "bf16" ? at::kBFloat16 : at::kFloat;
    options.race.on = false;
    evaluator_.emplace(env_.space, *set_, options);
    Fingerprint();
  }

  SearchResult Run() {
    const auto start = std::chrono::steady_clock::now();
    Resume();
    const size_t groups = scores_.size();
    if (!best_) Evaluate({{std::vector<double>(groups, 1), std::vector<double>(groups, 0)}});
    while (config_.method == "legr" && used_ < config_.evaluations) {
      if (context_.StopRequested())
        throw Error(ErrorKind::kInterrupted, Str("'front' stopped after ", used_, " candidates"));
      Rng rng = context_.Stream(Str("front/order/", generation_));
      std::vector<Order> children;
      constexpr int kBatch = 4;
      for (int i = 0; i < kBatch; ++i) children.push_back(Mutated(Parent(rng), rng));
      Evaluate(std::move(children));
    }
    SearchResult result = Result();
    result.seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return result;
  }

 private:
  void Score() {
    raw_ = ScoreUnits(config_.criterion, env_, context_, "front").scores;
    scores_ = raw_;
    if (config_.per_cost) {
      const std::vector<double> costs = UnitCosts(env_.cost, env_.budget);
      for (size_t g = 0; g < scores_.size(); ++g)
        for (double& score : scores_[g])
          if (costs[g] > 0) score /= costs[g];
    }
    double sum = 0, squares = 0, count = 0;
    for (const auto& group : scores_)
      for (const double score : group) {
        sum += score;
        squares += score * score;
        count += 1;
      }
    spread_ = std::sqrt(std::max(squares / count - sum * sum / count / count, 1e-30));
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
    const std::string text = ReadFile(JournalPath());
    std::string whole;
    for (size_t begin = 0, number = 1; begin < text.size(); ++number) {
      const size_t end = text.find('\n', begin);
      if (end == std::string::npos) break;  // torn: that generation is run again
      try {
        const json line = json::parse(text.substr(begin, end - begin));
        if (number == 1 && line.at("fingerprint") != fingerprint_)
          throw Error(ErrorKind::kData,
                      Str("'", JournalPath().string(), "' is the journal of another search"),
                      "choose another run folder, or remove the file to start over");
        std::vector<Order> orders;
        if (number > 1)
          for (const json& order : line.at("orders"))
            orders.push_back({order.at("scale"), order.at("shift"), order.at("values")});
        if (number > 1) Learn(std::move(orders));
      } catch (const json::exception& error) {
        throw Error(ErrorKind::kData,
                    Str("'", JournalPath().string(), "' line ", number, ": ", error.what()),
                    "the file is damaged; remove it to start over");
      }
      whole += text.substr(begin, end + 1 - begin);
      begin = end + 1;
    }
    WriteFileAtomic(JournalPath(), whole);
    LogInfo("front: continuing after ", used_, " candidates");
  }

  /// Kept counts where the order is cut so that a budget holds: the largest share that does.
  std::vector<int64_t> CutAt(const Order& order, const Budget& budget) const {
    Scores mapped = scores_;
    for (size_t g = 0; g < mapped.size(); ++g)
      for (double& score : mapped[g]) score = order.scale[g] * score + order.shift[g];
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

  /// Cuts at all budgets, the run's own last.
  std::vector<std::vector<int64_t>> CutEverywhere(const Order& order) const {
    std::vector<std::vector<int64_t>> cuts;
    for (const auto& budget : budgets_) cuts.push_back(CutAt(order, *budget));
    cuts.push_back(CutAt(order, env_.budget));
    return cuts;
  }

  const Order& Parent(Rng& rng) const {
    const Order* best = nullptr;
    for (int64_t i = 0; i < config_.tournament; ++i) {
      const Order& drawn = population_[rng.Index(population_.size())];
      if (best == nullptr || drawn.fitness() > best->fitness()) best = &drawn;
    }
    return *best;
  }

  Order Mutated(const Order& parent, Rng& rng) const {
    Order child{parent.scale, parent.shift};
    const auto groups = static_cast<double>(child.scale.size());
    const auto changes = static_cast<size_t>(std::ceil(config_.mutate * groups));
    const std::vector<int64_t> order = rng.Permutation(static_cast<int64_t>(child.scale.size()));
    for (size_t i = 0; i < std::min(changes, order.size()); ++i) {
      const auto g = static_cast<size_t>(order[i]);
      child.scale[g] *= std::exp(config_.sigma * rng.Normal());
      child.shift[g] += spread_ * rng.Normal();
    }
    return child;
  }

  void Evaluate(std::vector<Order> orders) {
    std::vector<Selection> selections;
    for (const Order& order : orders)
      for (const auto& kept : CutEverywhere(order))
        selections.push_back(SelectTop(env_.space, raw_, kept));
    const auto scores = evaluator_->Evaluate(selections);
    const size_t cuts = budgets_.size() + 1;
    for (size_t i = 0; i < orders.size(); ++i)
      for (size_t b = 0; b < cuts; ++b) {
        const CandidateScore& score = scores[i * cuts + b];
        if (score.failed) cause_ = score.cause;
        orders[i].values.push_back(score.failed ? kFailed : score.value);
      }
    if (!context_.folder.empty()) {
      if (generation_ == 0)
        AppendLine(JournalPath(),
                   json{{"format", "espalier-front"}, {"fingerprint", fingerprint_}}.dump());
      json line = json::array();
      for (const Order& order : orders)
        line.push_back({{"scale", order.scale}, {"shift", order.shift}, {"values", order.values}});
      AppendLine(JournalPath(), json{{"orders", line}}.dump());
    }
    Learn(std::move(orders));
  }

  void Learn(std::vector<Order> orders) {
    const auto cuts = static_cast<int64_t>(budgets_.size()) + 1;
    for (Order& order : orders) {
      used_ += cuts;
      if (!best_ || order.fitness() > best_->fitness()) best_ = order;
      context_.Report(used_, "best mean over budgets", best_->fitness());
      population_.push_back(std::move(order));
      if (static_cast<int64_t>(population_.size()) > config_.population) population_.pop_front();
    }
    ++generation_;
    context_.Advance(std::min(used_, config_.evaluations), config_.evaluations,
                     Str("mean over budgets ", best_->fitness()));
  }

  SearchResult Result() {
    if (best_->fitness() <= kFailed / 2)
      throw Error(ErrorKind::kTrials,
                  Str("'front' could evaluate no order; the last failed because: ", cause_));
    const std::vector<std::vector<int64_t>> cuts = CutEverywhere(*best_);
    std::vector<Selection> selections;
    for (const auto& kept : cuts) selections.push_back(SelectTop(env_.space, raw_, kept));

    // Searching picks what does well by chance, too: forecasts come from samples it did not see.
    const Dataset& validation = env_.splits->validation();
    constexpr int64_t kFew = 100;
    const bool unseen = validation.count() - set_->samples() >= kFew;
    std::optional<TaskSamples> rest;
    std::optional<CandidateEvaluator> judge;
    if (unseen) {
      rest.emplace(validation, env_.task, env_.network(), 0, set_->samples(), env_.device);
      CandidateOptions options{.device = env_.device};
      options.race.on = false;
      judge.emplace(env_.space, *rest, options);
    }
    const auto forecasts = (judge ? *judge : *evaluator_).Evaluate(selections);
    json front = json::array();
    constexpr double kNormal = 1.959964;  // 97.5 % quantile
    for (size_t b = 0; b < cuts.size(); ++b) {
      const std::vector<double> counts(cuts[b].begin(), cuts[b].end());
      const Cost cost = env_.cost.Evaluate(counts, env_.budget.convention());
      const CandidateScore& score = forecasts[b];
      const double half = kNormal * score.standard_error;
      json row = {{"own_budget", b == budgets_.size()},
                  {"macs", cost.macs},
                  {"params", cost.params},
                  {"activation_bytes", cost.activation_bytes},
                  {"kept", selections[b]},
                  {"searched_value", best_->values[b]},
                  {"forecast", score.value},
                  {"low", score.value - half},
                  {"high", score.value + half}};
      if (b < budgets_.size()) row["budget"] = config_.budgets[b];
      front.push_back(std::move(row));
    }
    SearchResult result;
    result.selection = selections.back();
    result.scores = raw_;
    result.info = {{"criterion", config_.criterion},
                   {"method", config_.method},
                   {"candidates", used_},
                   {"orders", used_ / static_cast<int64_t>(cuts.size())},
                   {"samples", set_->samples()},
                   {"forecast_on", unseen ? Str(rest->samples(), " unseen validation samples")
                                          : Str(set_->samples(), " samples the search saw")},
                   {"front", front}};
    return result;
  }

  static constexpr double kFailed = -1e30;  // value of a candidate that failed
  const FrontConfig& config_;
  const Environment& env_;
  SearchContext& context_;
  std::vector<std::unique_ptr<Budget>> budgets_;
  Scores raw_, scores_;  // [groups][units]; the latter per cost, which the order is made of
  double spread_ = 1;    // standard deviation of scores_
  std::optional<TaskSamples> set_;
  std::optional<CandidateEvaluator> evaluator_;
  std::string fingerprint_, cause_;

  std::deque<Order> population_;  // oldest first
  std::optional<Order> best_;
  int64_t used_ = 0, generation_ = 0;
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

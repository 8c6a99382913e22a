#include "experiments/league/league.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <set>

#include "env/base/call_text.h"
#include "env/base/error.h"
#include "env/base/files.h"
#include "env/base/interrupt.h"
#include "env/base/log.h"
#include "env/base/memory_error.h"
#include "env/eval/evaluator.h"
#include "env/graph/io.h"
#include "experiments/command_line.h"
#include "experiments/latency_options.h"
#include "experiments/league/comparison.h"
#include "experiments/league/league_report.h"
#include "experiments/league/stopwatch.h"
#include "experiments/progress_line.h"
#include "experiments/score_json.h"
#include "search/strategy.h"

namespace espalier {

using nlohmann::ordered_json;
namespace fs = std::filesystem;

Schema Describe(LeagueRules& rules) {
  return Schema()
      .Add("strategies", &rules.strategies,
           "who plays: names, with options as in \"ranking(criterion=taylor, scope=global)\"")
      .Add("macs", &rules.macs, "budgets, as fractions of the uncut network's multiply-adds")
      .Add("seeds", &rules.seeds, "every strategy runs once with each")
      .Add("evaluations", &rules.evaluations, "of every search that evaluates candidates",
           {.low = 1})
      .Add("samples", &rules.samples, "of one such evaluation; 0 = all", {.low = 0})
      .Add("precision", &rules.precision, "of it", {"fp32", "bf16"})
      .Add("baselines", &rules.baselines, "the methods that the others have to beat");
}

namespace {

/// Whether a strategy has the keys of a search that evaluates candidates.
bool EvaluatesCandidates(const std::string& name) {
  const auto* entry = Registry<Strategy>::Global().Find(name);
  if (entry == nullptr) return false;  // said where it is made
  std::set<std::string> keys;
  entry->describe([&](const Schema& schema) {
    for (const Field& field : schema.fields()) keys.insert(field.name);
  });
  return keys.contains("evaluations") && keys.contains("samples") && keys.contains("precision");
}

/// A strategy with its options; searches get the league's evaluations unless the entry says other.
std::unique_ptr<Strategy> MakeEntry(const std::string& entry, const LeagueRules& rules) {
  const CallText call = ParseCall("strategy", entry);
  std::string options = call.options;
  if (EvaluatesCandidates(call.name)) {
    const auto add = [&](const std::string& key, const std::string& value) {
      if (!call.Has(key)) options += key + " = " + value + "\n";
    };
    add("evaluations", Str(rules.evaluations));
    add("samples", Str(rules.samples));
    add("precision", "\"" + rules.precision + "\"");
  }
  return Registry<Strategy>::Global().Create(
      "strategy", call.name,
      ConfigDocument::Parse("[strategy]\n" + options, Str("league entry '", entry, "'"))
          .Section("strategy"));
}

/// "ranking(criterion=taylor)" -> "ranking-criterion-taylor": a file name.
std::string Slug(const std::string& entry) {
  std::string slug;
  for (const char c : entry) {
    const bool plain = std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '.';
    if (plain)
      slug += c;
    else if (!slug.empty() && slug.back() != '-')
      slug += '-';
  }
  while (!slug.empty() && slug.back() == '-') slug.pop_back();
  return slug;
}

}  // namespace

LeagueConfig LoadLeagueConfig(const fs::path& path, const std::vector<std::string>& overrides) {
  const auto document = ConfigDocument::Load(path, overrides);
  LeagueConfig config;
  config.path = path;
  std::vector<std::string> problems;
  document.CheckSections({"model", "data", "task", "budget", "latency", "space", "league", "run"},
                         problems);
  ReadModelSection(document, config.model, problems);
  ReadSection(document, "data", config.data, problems);
  ReadSection(document, "task", config.task, problems);
  ReadSection(document, "budget", config.budget, problems);
  ReadSection(document, "latency", config.latency, problems);
  ReadSection(document, "space", config.space, problems);
  ReadSection(document, "league", config.rules, problems);
  ReadSection(document, "run", config.run, problems);
  const LeagueRules& rules = config.rules;
  const auto need = [&](bool holds, const std::string& key, const std::string& what) {
    if (!holds)
      problems.push_back(Str("config key 'league.", key, "' ", what, "\n  --> ",
                             document.Section("league").Origin(key)));
  };
  need(!rules.strategies.empty(), "strategies", "names nobody");
  need(!rules.seeds.empty(), "seeds", "is empty");
  need(!rules.macs.empty(), "macs", "is empty");
  for (const double macs : rules.macs)
    need(macs > 0 && macs <= 1, "macs", Str("holds ", macs, ", allowed: fractions in (0, 1]"));
  std::set<std::string> slugs;
  for (const std::string& entry : rules.strategies) {
    need(slugs.insert(Slug(entry)).second, "strategies", Str("names '", entry, "' twice"));
    try {
      MakeEntry(entry, rules);
    } catch (const Error& error) {
      problems.push_back(error.message() +
                         (error.hint().empty() ? "" : "\n  help: " + error.hint()));
    }
  }
  ThrowIfProblems(problems);
  const auto dump = [&](const std::string& name, auto& part) {
    return DumpToml(name, Describe(part), document.Section(name)) + "\n";
  };
  config.resolved_toml = dump("model", config.model) + dump("data", config.data) +
                         dump("task", config.task) + dump("budget", config.budget) +
                         dump("latency", config.latency) + dump("space", config.space) +
                         dump("league", config.rules) + dump("run", config.run);
  return config;
}

League::League(const LeagueConfig& config)
    : config_(config), device_(UseDevice(config.run)), data_(config.data) {
  source_ = LoadModelSource(config.model, static_cast<uint64_t>(config.run.seed));
  SettleNormalisation(source_, data_);
  space_ = PrunableSpace(source_.network, ToOptions(config.space));
  cost_.emplace(*space_);
  if (config.budget.latency_ms) AddLatency(*space_, config.latency, device_, *cost_);
  for (const double macs : config.rules.macs) {
    BudgetConfig bounds = config.budget;
    bounds.macs = Quantity{macs, true};
    budgets_.push_back(std::make_unique<Budget>(*cost_, bounds));
  }
  splits_ = Splits::Load(data_, &source_.network);
  half_of_test_ = data_.seen == "train";
  if (half_of_test_) {
    const Dataset& test = splits_->test();
    const int64_t half = test.count() / 2;
    Splits halves(data_, splits_->train(), test.Part(0, half),
                  test.Part(half, test.count() - half));
    splits_ = std::move(halves);
  }
  if (splits_->test().count() == 0 || splits_->validation().count() == 0)
    throw Error(ErrorKind::kConfig, "a league needs validation and test samples",
                "data.validation and data.test are what is held out for them");
  task_ = MakeTask(config.task, splits_->train(), source_.network);
  splits_ = splits_->To(device_);
}

std::string League::StageOf(size_t budget, size_t entry, int64_t seed) const {
  return Str(Slug(config_.rules.strategies[entry]), "-macs", config_.rules.macs[budget], "-seed",
             seed);
}

ordered_json League::Play(RunFolder& folder, const std::string& stage, const Budget& budget,
                          const std::string& entry, int64_t seed) {
  const Environment environment{.space = *space_,
                                .cost = *cost_,
                                .budget = budget,
                                .splits = &*splits_,
                                .task = task_,
                                .device = device_};
  ordered_json result = {{"strategy", entry}, {"seed", seed}};
  ordered_json curve = ordered_json::array();
  SearchContext context{.seed = static_cast<uint64_t>(seed), .folder = folder.path() / stage};
  context.metric = [&](int64_t step, std::string_view name, double value) {
    if (name == "best") curve.push_back({step, value});
  };
  Stopwatch watch(context.folder / "elapsed.json");
  context.progress = [&, line = ProgressLine(stage)](int64_t done, int64_t total,
                                                     std::string_view detail) {
    watch.Keep();
    line(done, total, detail);
  };
  SearchResult found;
  try {
    found = MakeEntry(entry, config_.rules)->Run(environment, context);
  } catch (const std::exception& error) {
    const auto* own = dynamic_cast<const Error*>(&error);
    if (own != nullptr &&
        (own->kind() == ErrorKind::kInterrupted || own->kind() == ErrorKind::kInternal))
      throw;
    LogWarning(stage, " failed: ", CauseOf(error));
    result["failed"] = CauseOf(error);
    return result;
  }
  result["seconds"] = found.seconds;
  result.update(watch.Read());
  const std::vector<int64_t> kept = KeptCounts(found.selection);
  const std::vector<double> counts(kept.begin(), kept.end());
  const Cost cost = cost_->Evaluate(counts, budget.convention());
  result["macs"] = cost.macs;
  result["params"] = cost.params;
  result["kept"] = kept;
  Network network = space_->network();
  if (found.weights) network.store = *found.weights;
  Network cut = Cut(network, MakePlan(*space_, found.selection));
  cut.store = cut.store.To(device_);
  Tensor statistics;
  const Score score = Evaluate(cut, splits_->test(), task_, {}, &statistics);
  result["value"] = score.value;
  result["standard_error"] = score.standard_error;
  result["info"] = ordered_json::parse(found.info.dump());
  result["best_so_far"] = curve;
  TensorFile file;
  file.metadata = {{"format", "espalier-contributions"}};
  file.tensors = {
      {"contributions", Contributions(*task_.MakeMetric(), statistics.cpu()).to(at::kFloat)}};
  WriteSafetensors(folder.path() / "contributions" / (stage + ".safetensors"), file);
  return result;
}

ordered_json League::Run(RunFolder& folder) {
  folder.Manifest({{"machine", MachineFacts(device_.str())}},
                  {{"weights", source_.file_sha256}, {"network", source_.network.WeightsHash()}});
  const LeagueRules& rules = config_.rules;
  ordered_json league;
  for (size_t b = 0; b < budgets_.size(); ++b)
    for (const int64_t seed : rules.seeds) {
      for (size_t e = 0; e < rules.strategies.size(); ++e) {
        const std::string stage = StageOf(b, e, seed);
        if (const auto done = folder.Finished(stage)) {
          if (done->at("strategy") == rules.strategies[e]) continue;
          throw Error(
              ErrorKind::kConfig,
              Str("'", folder.path().string(), "': ", stage, " was played by '",
                  done->at("strategy").get<std::string>(), "', not by '", rules.strategies[e], "'"),
              "write it as it was, or give another folder with --out DIR");
        }
        ThrowIfInterrupted("the league");
        ordered_json result = Play(folder, stage, *budgets_[b], rules.strategies[e], seed);
        result["budget"] = rules.macs[b];
        folder.Finish(stage, result);
        if (!result.contains("failed"))
          LogInfo(stage, ": ", FigureText(task_.metric, result["value"].get<double>()), " at ",
                  Millions(result["macs"].get<double>()), " MACs, ",
                  Fixed(result["wall_seconds"].get<double>(), 1), " s");
      }
      // A long league can be read while it is played: whole seeds only, so that pairs stay pairs.
      league = Table(folder);
      WriteJson(folder.path() / "league.json", league);
      WriteLeagueReport(folder.path() / "report.html", league);
    }
  return league;
}

std::vector<int64_t> League::Played(const RunFolder& folder, size_t budget) const {
  std::vector<int64_t> played;
  for (const int64_t seed : config_.rules.seeds) {
    bool all = true;
    for (size_t e = 0; e < config_.rules.strategies.size(); ++e)
      all = all && folder.Finished(StageOf(budget, e, seed)).has_value();
    if (all) played.push_back(seed);
  }
  return played;
}

ordered_json League::Table(const RunFolder& folder) const {
  const LeagueRules& rules = config_.rules;
  const double direction = HasFact(task_.metric, kLowerIsBetter) ? -1 : 1;
  ordered_json league = {
      {"network", source_.network.name},
      {"metric", task_.metric},
      {"lower_is_better", direction < 0},
      {"convention", ConventionName(budgets_.front()->convention())},
      {"evaluations", rules.evaluations},
      {"samples", rules.samples},
      {"seeds", rules.seeds},
      {"chosen_on",
       Str(splits_->validation().count(), half_of_test_ ? " test samples (the weights have seen "
                                                          "the validation samples)"
                                                        : " validation samples")},
      {"reported_on",
       Str(splits_->test().count(), half_of_test_ ? " other test samples" : " test samples")},
      {"budgets", ordered_json::array()}};
  const auto is_baseline = [&](const std::string& entry) {
    const std::string name = entry.substr(0, entry.find('('));
    return std::any_of(rules.baselines.begin(), rules.baselines.end(),
                       [&](const std::string& one) { return one == entry || one == name; });
  };
  for (size_t b = 0; b < budgets_.size(); ++b) {
    const std::vector<int64_t> seeds = Played(folder, b);
    if (seeds.empty()) continue;
    struct Side {
      std::string entry;
      std::vector<double> values{};
      std::vector<Tensor> contributions{};  // larger = better
      ordered_json row{};
    };
    std::vector<Side> sides;
    for (size_t e = 0; e < rules.strategies.size(); ++e) {
      Side side{.entry = rules.strategies[e]};
      double wall = 0, cpu = 0, macs = 0, params = 0;
      ordered_json curves = ordered_json::array();
      for (const int64_t seed : seeds) {
        const std::string stage = StageOf(b, e, seed);
        const ordered_json played = *folder.Finished(stage);
        if (played.contains("failed")) {
          side.row["failed"] = played["failed"];
          break;
        }
        const auto n = static_cast<double>(seeds.size());
        side.values.push_back(played["value"]);
        wall += played["wall_seconds"].get<double>() / n;
        cpu += played["cpu_seconds"].get<double>() / n;
        macs += played["macs"].get<double>() / n;
        params += played["params"].get<double>() / n;
        curves.push_back(played["best_so_far"]);
        const TensorFile file =
            ReadSafetensors(folder.path() / "contributions" / (stage + ".safetensors"));
        side.contributions.push_back(file.tensors.front().second * direction);
      }
      const Spread spread = SpreadOf(side.values);
      ordered_json row = {{"strategy", side.entry}, {"baseline", is_baseline(side.entry)}};
      if (side.row.contains("failed")) {
        row["failed"] = side.row["failed"];
      } else {
        row.update({{"mean", spread.mean},
                    {"deviation", spread.deviation},
                    {"values", side.values},
                    {"macs", macs},
                    {"params", params},
                    {"wall_seconds", wall},
                    {"cpu_seconds", cpu},
                    {"curves", curves}});
      }
      side.row = std::move(row);
      sides.push_back(std::move(side));
    }
    const auto compare = [&](Side& side, const Side& other, const std::string& key) {
      const PairedDifference difference = Compare(side.contributions, other.contributions);
      side.row[key] = {{"to", other.entry},
                       {"mean", difference.mean},
                       {"half_width", difference.half_width},
                       {"verdict", difference.Verdict()}};
    };
    for (Side& side : sides) {
      if (side.row.contains("failed")) continue;
      const Side* best = nullptr;
      for (const Side& other : sides) {
        if (&other == &side || other.row.contains("failed")) continue;
        if (other.entry == "uniform") compare(side, other, "against_uniform");
        if (other.entry == "random_search") compare(side, other, "against_random_search");
        if (is_baseline(other.entry) &&
            (best == nullptr ||
             direction * SpreadOf(other.values).mean > direction * SpreadOf(best->values).mean))
          best = &other;
      }
      if (best != nullptr) compare(side, *best, "against_best_baseline");
    }
    std::stable_sort(sides.begin(), sides.end(), [&](const Side& x, const Side& y) {
      const bool failed = x.row.contains("failed"), other = y.row.contains("failed");
      if (failed != other) return other;
      return !failed && direction * SpreadOf(x.values).mean > direction * SpreadOf(y.values).mean;
    });
    ordered_json rows = ordered_json::array();
    for (Side& side : sides) rows.push_back(std::move(side.row));
    league["budgets"].push_back({{"macs", rules.macs[b]},
                                 {"limit", budgets_[b]->bounds().front().limit},
                                 {"seeds", seeds},
                                 {"rows", rows}});
  }
  return league;
}

}  // namespace espalier

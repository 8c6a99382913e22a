#include "criteria/scope.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>

#include "criteria/normalise.h"
#include "env/base/error.h"

namespace espalier {
namespace {

constexpr int kBisections = 50;
constexpr double kGone = 0.01;  // a keep ratio at which a branch goes

/// A budget's nearest kept counts for a share, smaller shares never keeping more.
using Allocator = std::function<Decision(double share)>;

Decision RatiosOf(const std::vector<int64_t>& kept, const std::vector<int64_t>& units) {
  Decision ratios;
  for (size_t g = 0; g < kept.size(); ++g)
    ratios.push_back(kept[g] == 0 ? kGone
                                  : static_cast<double>(kept[g]) / static_cast<double>(units[g]));
  return ratios;
}

/// Residual branches that stay whatever they score.
class ProtectedBranches {
 public:
  ProtectedBranches(const Space& space, const ScopeConfig& config)
      : config_(config), is_branch_(space.groups().size()), stays_(space.groups().size()) {
    const auto& branches = space.branches();  // in the order of the network
    const int64_t count = std::ssize(branches), last = count - config.protect_last;
    if (config.protect_first > last && any())
      throw Error(ErrorKind::kConfig,
                  Str("protect_first = ", config.protect_first, ", protect_last = ",
                      config.protect_last, ": the space has ", count, " residual branches"),
                  count == 0 ? "branches are units with space.depth = true" : "protect fewer");
    for (int64_t branch = 0; branch < count; ++branch) {
      const auto group = static_cast<size_t>(branches[static_cast<size_t>(branch)].group);
      is_branch_[group] = true;
      stays_[group] = branch < config.protect_first || branch >= last;
    }
  }

  bool any() const { return config_.protect_first + config_.protect_last > 0; }
  void RankFirst(Scores& scores) const {
    for (size_t g = 0; g < scores.size(); ++g)
      if (stays_[g]) scores[g].assign(scores[g].size(), std::numeric_limits<double>::max());
  }
  /// A budget takes the branches of the least ratio first: the others get less, but stay as well.
  Decision Prefer(Decision ratios) const {
    constexpr double kStaysToo = 0.9;
    for (size_t g = 0; g < ratios.size() && any(); ++g) {
      if (stays_[g])
        ratios[g] = 1;
      else if (is_branch_[g])
        ratios[g] = std::min(ratios[g], kStaysToo);
    }
    return ratios;
  }
  Ranking Checked(Ranking ranking) const {
    for (size_t g = 0; g < stays_.size(); ++g)
      if (stays_[g] && ranking.kept[g] == 0)
        throw Error(ErrorKind::kBudget,
                    Str("the budget cannot be met with the first ", config_.protect_first,
                        " and the last ", config_.protect_last, " residual branches kept"),
                    "raise the bounds, or protect fewer");
    return ranking;
  }

 private:
  const ScopeConfig& config_;
  std::vector<bool> is_branch_, stays_;
};

Ranking FitToBudget(const CostModel& cost, const Budget& budget, const ProtectedBranches& branches,
                    const Allocator& ratios_at) {
  const Allocator allocate = [&](double share) { return branches.Prefer(ratios_at(share)); };
  Ranking ranking;
  double low = 0, high = 1;
  if (budget.bounds().empty() || budget.Feasible(budget.Nearest(allocate(1)))) {
    low = 1;
  } else {
    for (int i = 0; i < kBisections; ++i) {
      const double middle = (low + high) / 2;
      (budget.Feasible(budget.Nearest(allocate(middle))) ? low : high) = middle;
    }
  }
  ranking.share = low;
  const std::vector<int64_t> kept = budget.Nearest(allocate(low));
  ranking.kept = budget.bounds().empty()
                     ? kept
                     : budget.Project(branches.Prefer(RatiosOf(kept, cost.units())));
  return branches.Checked(std::move(ranking));
}

/// The groups of each class's units, best unit first.
using Ranked = std::map<int64_t, std::vector<size_t>>;

Ranked RankUnits(const Scores& scores, const std::vector<int64_t>& classes) {
  ESPALIER_CHECK(classes.size() == scores.size(), classes.size(), " classes for ", scores.size(),
                 " groups");
  std::map<int64_t, std::vector<std::pair<double, size_t>>> units;  // (score, group)
  for (size_t g = 0; g < scores.size(); ++g)
    for (const double score : scores[g]) units[classes[g]].push_back({score, g});
  Ranked ranked;
  for (auto& [number, list] : units) {
    // In (group, unit) order already: a stable sort leaves ties there.
    std::stable_sort(list.begin(), list.end(),
                     [](const auto& a, const auto& b) { return a.first > b.first; });
    for (const auto& [score, group] : list) ranked[number].push_back(group);
  }
  return ranked;
}

/// least: [groups].
std::vector<int64_t> CountsOf(const Ranked& ranked, const std::vector<int64_t>& least,
                              double share) {
  std::vector<int64_t> kept(least.size(), 0);
  for (const auto& [number, order] : ranked) {
    const auto wanted = static_cast<size_t>(
        std::floor(share * static_cast<double>(order.size()) + 1e-9));  // 0.3 * 10 is 3
    for (size_t i = 0; i < std::min(wanted, order.size()); ++i) ++kept[order[i]];
  }
  for (size_t g = 0; g < kept.size(); ++g)
    kept[g] = std::max(kept[g], std::min<int64_t>(least[g], 1));
  return kept;
}

/// Mean score of each group, and how much of a group may go.
Decision EntropyDecision(const Scores& scores, const std::vector<int64_t>& units, double share,
                         double epsilon) {
  std::vector<double> means, most;
  for (size_t g = 0; g < scores.size(); ++g) {
    const double left = std::max(1.0, static_cast<double>(scores[g].size()));
    means.push_back(std::accumulate(scores[g].begin(), scores[g].end(), 0.0) / left);
    most.push_back(1 - 1 / static_cast<double>(units[g]));
  }
  Decision ratios;
  for (const double removed : EntropyShares(means, 1 - share, epsilon, most))
    ratios.push_back(1 - removed);
  return ratios;
}

}  // namespace

Scope ParseScope(const std::string& name) {
  for (size_t i = 0; i < kScopeNames.size(); ++i)
    if (kScopeNames[i] == name) return static_cast<Scope>(i);
  throw Error(ErrorKind::kConfig, Str("unknown scope '", name, "'"),
              SuggestName(name, kScopeNames));
}

std::vector<int64_t> CountsAtShare(const Scores& scores, const std::vector<int64_t>& classes,
                                   double share) {
  return CountsOf(RankUnits(scores, classes), std::vector<int64_t>(scores.size(), 1), share);
}

std::vector<double> EntropyShares(std::span<const double> scores, double mean_removed,
                                  double epsilon, std::span<const double> most) {
  ESPALIER_CHECK(most.size() == scores.size() && epsilon > 0, most.size(), " bounds for ",
                 scores.size(), " scores");
  const double least = *std::min_element(scores.begin(), scores.end());
  std::vector<double> weights;  // softmax without its denominator, at most 1
  for (const double score : scores) weights.push_back(std::exp(-(score - least) / epsilon));
  std::vector<double> removed(scores.size(), 0);
  std::vector<bool> clipped(scores.size(), false);
  const double total = mean_removed * static_cast<double>(scores.size());
  for (size_t round = 0; round < scores.size(); ++round) {
    double weight = 0, left = total;
    for (size_t i = 0; i < scores.size(); ++i) {
      if (clipped[i])
        left -= most[i];
      else
        weight += weights[i];
    }
    bool more = false;
    // Far behind the best all weights vanish: what is left is then shared equally.
    const auto open = static_cast<double>(std::count(clipped.begin(), clipped.end(), false));
    for (size_t i = 0; i < scores.size(); ++i)
      if (!clipped[i]) removed[i] = weight > 0 ? left * weights[i] / weight : left / open;
    for (size_t i = 0; i < scores.size(); ++i)
      if (!clipped[i] && removed[i] > most[i]) {
        removed[i] = most[i];
        clipped[i] = more = true;
      }
    if (!more) break;
  }
  return removed;
}

std::vector<double> UnitCosts(const CostModel& cost, const Budget& budget,
                              const std::vector<int64_t>& counts) {
  const std::vector<int64_t>& from = counts.empty() ? cost.units() : counts;
  const std::vector<double> full(from.begin(), from.end());
  std::vector<CostKind> kinds;
  for (const Bound& bound : budget.bounds()) kinds.push_back(bound.kind);
  if (kinds.empty()) kinds.push_back(CostKind::kMacs);
  std::vector<double> costs(full.size(), 0);
  for (const CostKind kind : kinds) {
    const double whole = cost.Evaluate(kind, budget.convention(), full);
    if (kind == CostKind::kLatency) {  // one unit less is nothing, or a whole stair
      const std::vector<double> slope = cost.Gradient(kind, budget.convention(), full);
      for (size_t g = 0; g < full.size(); ++g) costs[g] += std::max(0.0, slope[g]) / whole;
      continue;
    }
    for (size_t g = 0; g < full.size(); ++g) {
      if (full[g] == 0) continue;
      std::vector<double> without = full;
      without[g] -= 1;
      costs[g] += (whole - cost.Evaluate(kind, budget.convention(), without)) / whole;
    }
  }
  return costs;
}

void AddScopeFields(Schema& schema, ScopeConfig& config) {
  schema.Add("scope", &config.scope, "which units are ranked together", kScopeNames);
  schema.Add("normaliser", &config.normaliser, "applied to the scores of each group first",
             kNormaliserNames);
  schema.Add("sentinel_quantile", &config.sentinel_quantile,
             "of the normaliser sentinel: which of the sorted scores divides",
             RealRange{.low = 0, .high = 1});
  schema.Add("epsilon", &config.epsilon,
             "of entropy_softmax: small concentrates on the groups with the lowest scores",
             RealRange{.low = 0, .open_low = true});
  schema.Add("protect_first", &config.protect_first,
             "residual branches at the start that stay whatever their score (space.depth)",
             {.low = 0});
  schema.Add("protect_last", &config.protect_last, "the same at the end", {.low = 0});
}

Ranking RankUnderBudget(const Space& space, const CostModel& cost, const Budget& budget,
                        const Scores& given, const ScopeConfig& config) {
  const Scope scope = ParseScope(config.scope);
  const Normaliser normaliser = ParseNormaliser(config.normaliser);
  Scores scores;
  for (const auto& group : given)
    scores.push_back(group.empty() ? group
                                   : Normalise(group, normaliser, config.sentinel_quantile));
  const auto& units = cost.units();
  const ProtectedBranches branches(space, config);
  if (scope == Scope::kLocal) {
    const Decision all(units.size(), 1.0);  // projection finds the common factor
    return branches.Checked({.kept = budget.Project(branches.Prefer(all)),
                             .share = 1,
                             .classes = static_cast<int64_t>(units.size())});
  }
  if (scope == Scope::kEntropySoftmax)
    return FitToBudget(cost, budget, branches, [&](double share) {
      return EntropyDecision(scores, units, share, config.epsilon);
    });
  std::vector<int64_t> classes(units.size(), 0);
  int64_t count = 1;
  if (scope == Scope::kIsomorphic) {
    std::map<uint64_t, int64_t> numbers;
    const std::vector<uint64_t> signatures = GroupSignatures(space);
    for (size_t g = 0; g < signatures.size(); ++g)
      classes[g] = numbers.try_emplace(signatures[g], std::ssize(numbers)).first->second;
    count = std::ssize(numbers);
  }
  if (scope == Scope::kGlobalPerCost) {
    std::vector<int64_t> left;
    for (const auto& group : scores) left.push_back(std::ssize(group));
    const std::vector<double> costs = UnitCosts(cost, budget, left);
    for (size_t g = 0; g < scores.size(); ++g)
      for (double& score : scores[g])
        // A unit that saves nothing is not worth removing.
        score = costs[g] > 0 ? score / costs[g] : std::numeric_limits<double>::max();
  }
  branches.RankFirst(scores);
  const Ranked ranked = RankUnits(scores, classes);
  Ranking ranking = FitToBudget(cost, budget, branches, [&](double share) {
    return RatiosOf(CountsOf(ranked, cost.least(), share), units);
  });
  ranking.classes = count;
  return ranking;
}

}  // namespace espalier

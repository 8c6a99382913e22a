#pragma once

#include <nlohmann/json.hpp>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "env/base/registry.h"
#include "env/base/rng.h"
#include "env/base/tensor.h"
#include "env/cost/budget.h"
#include "env/data/splits.h"
#include "env/eval/evaluator.h"
#include "env/space/plan.h"
#include "env/space/space.h"
#include "env/task/task.h"

namespace espalier {

/// What a strategy sees: borrowed parts that outlive the search.
struct Environment {
  const Space& space;  ///< its network() holds the uncut weights
  const CostModel& cost;
  const Budget& budget;            ///< bounds, their convention, and projection
  const Splits* splits = nullptr;  ///< null when no data was given
  Task task{};                     ///< what networks are judged and trained by
  at::Device device = at::kCPU;
  EvalOptions evaluation{};

  const Network& network() const { return space.network(); }
  /// Errors: kConfig saying that `strategy` needs a [data] table.
  const Splits& Data(const std::string& strategy) const;
};

/// What a strategy may use besides: randomness, a folder for checkpoints, and ways to be heard and
/// stopped. Every callback may be empty.
struct SearchContext {
  uint64_t seed = 0;
  uint64_t trial = 0;
  std::filesystem::path folder{};  ///< checkpoints live here; empty = keep none
  /// A measured value of a step. After a resume the steps since the checkpoint are reported again
  /// with equal values: a sink keys by (step, name).
  std::function<void(int64_t step, std::string_view name, double value)> metric{};
  std::function<void(int64_t done, int64_t total, std::string_view detail)> progress{};
  std::function<bool()> stop{};  ///< asked between steps, besides InterruptRequested()

  Rng Stream(std::string_view purpose) const { return Rng(seed, trial, purpose); }
  void Report(int64_t step, std::string_view name, double value) const {
    if (metric) metric(step, name, value);
  }
  void Advance(int64_t done, int64_t total, std::string_view detail) const {
    if (progress) progress(done, total, detail);
  }
  bool StopRequested() const;  ///< stop() or InterruptRequested()
};

struct SearchResult {
  Selection selection;                      ///< kept units per group
  std::vector<std::vector<double>> scores;  ///< [groups][units], larger = keep; may be empty
  /// Weights of the uncut network, by strategies that train while they search; otherwise the cut
  /// takes those of the environment.
  std::optional<ParameterStore> weights;
  nlohmann::json info = nlohmann::json::object();  ///< for the report: what the search did
  double seconds = 0;  ///< wall time of this call; resumed searches add up what came before
};

/// A whole search method.
///
/// Random   only from context streams: the same seed gives the same selection.
/// State    with a folder, enough is kept there that a killed search, run again with the same
///          arguments, ends in the same result (bit for bit on CPU).
/// Errors   kInterrupted after a requested stop, resumable; kConfig when data is missing; kTrials
///          when the search diverged; kData for a checkpoint of another search.
class Strategy {
 public:
  virtual ~Strategy() = default;
  /// Every bound of the budget holds for the selection, unless the entry's facts say "tolerance".
  virtual SearchResult Run(const Environment& environment, SearchContext& context) const = 0;
};

/// Facts of registry entries.
inline constexpr const char* kNeedsData = "needs data";
inline constexpr const char* kNeedsGradients = "needs gradients";

}  // namespace espalier

/// At the end of a strategy's .cc: ESPALIER_REGISTER_STRATEGY(Autobot, AutobotConfig, {.name =
/// ...});
#define ESPALIER_REGISTER_STRATEGY(Impl, Config, ...)                                 \
  namespace {                                                                         \
  const ::espalier::Registration<::espalier::Strategy, Impl, Config> register_##Impl( \
      ::espalier::EntryInfo __VA_ARGS__);                                             \
  }

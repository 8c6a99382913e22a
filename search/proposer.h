#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "env/base/registry.h"
#include "env/base/rng.h"
#include "env/cost/budget.h"
#include "env/space/plan.h"

namespace espalier {

/// What a proposer asks for.
struct Proposal {
  Decision decision{};  ///< [groups] in (0, 1]
  /// Evaluate these ratios rounded, whatever they cost: a step on the way to the budget. Else they
  /// are projected onto it.
  bool as_is = false;
  /// In (0, 1]: fraction of the samples, or of what SearchLoopConfig::fidelity says; counts as
  /// that much of an evaluation.
  double fidelity = 1;
};

/// One evaluated candidate.
struct Trial {
  int64_t number = 0;           ///< 0, 1, ... in the order asked
  std::string origin{};         ///< "uniform", "enqueued", or the proposer
  Proposal proposal{};          ///< as asked; without a decision when it was refused
  std::vector<int64_t> kept{};  ///< as evaluated, [groups]; empty when the proposal was refused
  bool feasible = false;        ///< every bound holds
  bool failed = false;
  std::string cause{};  ///< of the failure
  double value = 0;     ///< larger = better; of a dropped one as CandidateScore says
  double standard_error = 0;
  int64_t samples = 0;
  bool dropped = false;  ///< left a race early: worse than the best of its batch
  Cost cost{};
};

/// What a proposer knows of its task.
struct SearchProblem {
  const CostModel& cost;
  const Budget& budget;
  int64_t evaluations = 0;            ///< whole evaluations there will be
  uint64_t seed = 0;                  ///< for draws that are made when results are told
  std::vector<double> low{}, high{};  ///< [groups] allowed keep ratios

  size_t groups() const { return low.size(); }
  /// Kept ratios of a trial as it was evaluated: where the value was really measured. [groups]
  std::vector<double> Point(const Trial& trial) const;
};

/// A black-box search method: proposes keep ratios, hears what they were worth.
///
/// State    what it was told, and nothing else: after a resume it is told all earlier batches again
///          and goes on identically.
/// Random   only from the stream Ask is given, which depends on the seed and the batch number, and
///          from SearchProblem::seed.
/// Errors   proposals outside the bounds become failed trials; a proposer need not check.
class Proposer {
 public:
  virtual ~Proposer() = default;
  /// The next batch, evaluated side by side; at least one.
  virtual std::vector<Proposal> Ask(const SearchProblem& problem, Rng& rng) const = 0;
  /// Results in the order asked, failed ones included; also trials it did not ask for (the uniform
  /// candidate, enqueued ones), which come first.
  virtual void Tell(const SearchProblem& problem, std::span<const Trial> batch) = 0;
  /// How many of a batch are to be told apart exactly: a race may drop those behind them early.
  virtual int64_t Wanted(int64_t batch) const { return batch; }
  virtual bool Done(const SearchProblem&) const { return false; }  ///< nothing left to ask
};

}  // namespace espalier

#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "criteria/group_view.h"
#include "env/base/registry.h"
#include "env/base/tensor.h"
#include "env/space/plan.h"
#include "env/space/space.h"

namespace espalier {

/// Scores units: which of a group's units should stay.
///
/// Shapes   a view of one group -> scores: [units] float64, CPU.
/// Units    larger = keep; finite; comparable within a group, across groups only when the entry's
///          facts say so.
/// Errors   internal: empty group; kModel: a group that has nothing this criterion can score.
/// Random   only from (seed, group name): the same call gives the same scores.
/// Threads  Score may be called concurrently.
class Criterion {
 public:
  virtual ~Criterion() = default;
  /// What has to be collected first; empty: the weights are enough.
  virtual Needs needs() const { return {}; }
  /// Sets what a collection has to know beyond them.
  virtual void Adjust(Calibration& /*calibration*/) const {}
  /// Itself with options that were found by trying them on the network; null = there are none to
  /// find. report: what was found, for the record.
  using Report = std::function<void(std::string_view name, double value)>;
  virtual std::unique_ptr<Criterion> Tuned(const Space& /*space*/, const ParameterStore& /*store*/,
                                           const Calibration& /*calibration*/,
                                           const Report& /*report*/) const {
    return nullptr;
  }
  virtual Tensor Score(const GroupView& group, uint64_t seed) const = 0;
};

/// Facts a registry entry states; they decide which checks and combinations apply.
inline constexpr const char* kDataFree = "data-free";              ///< weights are all it reads
inline constexpr const char* kIgnoresWeights = "ignores weights";  ///< scores follow no weight
/// Scores estimate a change of the loss: they can be compared across groups.
inline constexpr const char* kAcrossGroups = "comparable across groups";

/// A criterion and its options in one text: "l1_norm", "taylor(mode=vector, reduce=max)",
/// "l2_norm(p = 3)". Strings need no quotes.
/// Errors: kConfig naming the criterion or option that is unknown, with the nearest one.
std::unique_ptr<Criterion> MakeCriterion(const std::string& text);

/// What a registered criterion needs, asked of the criterion itself.
struct NeedsSheet {
  Needs defaults;                                   ///< with all options left alone
  std::vector<std::pair<std::string, Needs>> with;  ///< "mode=mixed": where one option changes it
};
NeedsSheet NeedsOf(const std::string& name);
std::string NeedsText(const Needs& needs);  ///< "gradient, gram"; "none"

/// scores[group][unit], as SelectTop takes them.
/// Errors: kConfig when the criterion needs statistics that were not collected; kModel naming group
/// and unit when a score is not finite or the count is wrong.
std::vector<std::vector<double>> ScoreGroups(const Criterion& criterion, const Space& space,
                                             const ParameterStore& store, uint64_t seed,
                                             const Statistics* statistics = nullptr);

}  // namespace espalier

/// At the end of a criterion's .cc: ESPALIER_REGISTER_CRITERION(L1Norm, L1NormConfig, {.name =
/// ...});
#define ESPALIER_REGISTER_CRITERION(Impl, Config, ...)                                 \
  namespace {                                                                          \
  const ::espalier::Registration<::espalier::Criterion, Impl, Config> register_##Impl( \
      ::espalier::EntryInfo __VA_ARGS__);                                              \
  }

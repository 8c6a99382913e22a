#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "env/base/registry.h"
#include "env/base/tensor.h"
#include "env/space/plan.h"
#include "env/space/space.h"

namespace espalier {

/// One Group as a criterion sees it: the weights of every scored member regrouped by unit, so that
/// flattened features, grouped convolutions and permuted channels need no special code.
struct GroupView {
  /// All entries of one parameter that belong to the group.
  struct Slice {
    std::string parameter;  ///< canonical store name
    MemberRole role = MemberRole::kProducer;
    bool is_bias = false;  ///< every op reads it as its `bias` argument
    Tensor weight;         ///< [units, elements] float64, CPU: row u holds what leaves with unit u
  };
  std::string name;
  int64_t units = 0;
  std::vector<Slice> slices;  ///< parameters only, in member order; buffers are not weights
};

/// Views of all groups. The store may hold other weights of the same network.
/// Errors: kModel when a member's axis does not hold the indices the space names.
std::vector<GroupView> ViewGroups(const Space& space, const ParameterStore& store);

/// Scores units: which of a group's units should stay.
///
/// Shapes   group.slices[i].weight: [units, elements] float64 -> scores: [units] float64, CPU.
/// Units    larger = keep; finite; comparable within a group, across groups only when the entry's
///          facts say so.
/// Errors   internal: empty group.
/// Random   only from (seed, group name): the same call gives the same scores.
/// Threads  Score may be called concurrently.
class Criterion {
 public:
  virtual ~Criterion() = default;
  virtual Tensor Score(const GroupView& group, uint64_t seed) const = 0;
};

/// Facts a registry entry states; they decide which checks and combinations apply.
inline constexpr const char* kDataFree = "data-free";              ///< weights are all it reads
inline constexpr const char* kIgnoresWeights = "ignores weights";  ///< scores follow no weight

/// scores[group][unit], as SelectTop takes them.
/// Errors: kModel naming group and unit when a score is not finite or the count is wrong.
std::vector<std::vector<double>> ScoreGroups(const Criterion& criterion, const Space& space,
                                             const ParameterStore& store, uint64_t seed);

/// How the scores of several members become one score per unit.
enum class Reduce { kSum, kMean, kMax, kProd, kFirst };
Reduce ParseReduce(const std::string& name);  ///< kConfig with choices
inline const std::vector<std::string> kReduceNames = {"sum", "mean", "max", "prod", "first"};
/// members: [M][units] float64 -> [units]. Mean divides by M; first is the root member.
Tensor ReduceMembers(const std::vector<Tensor>& members, Reduce reduce);

}  // namespace espalier

/// At the end of a criterion's .cc: ESPALIER_REGISTER_CRITERION(L1Norm, L1NormConfig, {.name =
/// ...});
#define ESPALIER_REGISTER_CRITERION(Impl, Config, ...)                                 \
  namespace {                                                                          \
  const ::espalier::Registration<::espalier::Criterion, Impl, Config> register_##Impl( \
      ::espalier::EntryInfo __VA_ARGS__);                                              \
  }

#pragma once

#include <functional>
#include <string>
#include <vector>

#include "criteria/criterion.h"

namespace espalier {

/// How the scores of several members become one score per unit.
enum class Reduce { kSum, kMean, kMax, kProd, kFirst, kLast };
Reduce ParseReduce(const std::string& name);  ///< kConfig with choices
inline const std::vector<std::string> kReduceNames = {"sum",  "mean",  "max",
                                                      "prod", "first", "last"};
/// members: [M][units] float64 -> [units]. Mean divides by M; first is the root member,
/// last the one scored last.
Tensor ReduceMembers(const std::vector<Tensor>& members, Reduce reduce);

/// Which members of a group count, and how they are joined: options most criteria share.
struct MemberConfig {
  std::string reduce =
      "sum";  ///< over members: sum, mean, max, prod, first (the root member), last
  std::string members = "all";  ///< all, or producer: rows only, as papers on single layers score
  bool norms = true;            ///< batch-norm scales and other per-channel weights count too
  bool bias = false;            ///< bias vectors count too
};
void AddMemberFields(Schema& schema, MemberConfig& config);

/// Whether a slice counts.
bool Counts(const GroupView::Slice& slice, const MemberConfig& config);

/// Scores every slice that counts and joins the scores.
/// Errors: internal for an empty group; kModel naming the group when no slice counts.
using SliceScore = std::function<Tensor(const GroupView::Slice&)>;  ///< -> [units] float64
Tensor ScoreMembers(const GroupView& group, const MemberConfig& config, const SliceScore& score);

}  // namespace espalier

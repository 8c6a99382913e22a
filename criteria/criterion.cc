#include "criteria/criterion.h"

#include <ATen/ATen.h>

#include <cmath>

#include "env/base/call_text.h"
#include "env/base/error.h"

namespace espalier {
namespace {

[[noreturn]] void ThrowNeeds(const Needs& needs, const Statistics* statistics) {
  std::string missing;
  for (const Need need : needs)
    if (!statistics || !statistics->collected.contains(need))
      missing += Str(missing.empty() ? "" : ", ", NeedName(need));
  throw Error(ErrorKind::kConfig, Str("the criterion needs data (", missing, " statistics)"),
              "choose a criterion with the fact \"data-free\", or one strategy that calibrates: "
              "`espalier list strategies ranking`");
}

}  // namespace

std::unique_ptr<Criterion> MakeCriterion(const std::string& text) {
  return CreateFromCall<Criterion>("criterion", text);
}

std::vector<std::vector<double>> ScoreGroups(const Criterion& criterion, const Space& space,
                                             const ParameterStore& store, uint64_t seed,
                                             const Statistics* statistics) {
  const at::NoGradGuard no_grad;
  const Needs needs = criterion.needs();
  for (const Need need : needs)
    if (!statistics || !statistics->collected.contains(need)) ThrowNeeds(needs, statistics);
  std::vector<std::vector<double>> scores;
  for (const GroupView& view : ViewGroups(space, store, statistics)) {
    const Tensor scored = criterion.Score(view, seed).to(at::kCPU, at::kDouble).contiguous();
    if (scored.dim() != 1 || scored.size(0) != view.units) {
      throw Error(ErrorKind::kModel, Str("group '", view.name, "': the criterion returned ",
                                         scored.numel(), " scores for ", view.units, " units"));
    }
    const auto* first = scored.const_data_ptr<double>();
    scores.emplace_back(first, first + view.units);
    for (int64_t unit = 0; unit < view.units; ++unit) {
      if (std::isfinite(first[unit])) continue;
      throw Error(ErrorKind::kModel,
                  Str("group '", view.name, "', unit ", unit, ": score is ", first[unit],
                      ", expected a finite number"),
                  "do the weights hold NaN or infinity?");
    }
  }
  return scores;
}

}  // namespace espalier

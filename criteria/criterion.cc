#include "criteria/criterion.h"

#include <ATen/ATen.h>

#include <cmath>

#include "env/base/call_text.h"
#include "env/base/error.h"

namespace espalier {
namespace {

[[noreturn]] void ThrowNeeds(const Needs& needs, const Statistics* statistics) {
  Needs missing;
  for (const Need need : needs)
    if (!statistics || !statistics->collected.contains(need)) missing.insert(need);
  throw Error(ErrorKind::kConfig,
              Str("the criterion needs data (", NeedsText(missing), " statistics)"),
              "choose a criterion with the fact \"data-free\", or one strategy that calibrates: "
              "`espalier list strategies ranking`");
}

}  // namespace

std::unique_ptr<Criterion> MakeCriterion(const std::string& text) {
  return CreateFromCall<Criterion>("criterion", text);
}

NeedsSheet NeedsOf(const std::string& name) {
  NeedsSheet sheet{.defaults = MakeCriterion(name)->needs(), .with = {}};
  const auto ask = [&](const std::string& option) {
    const Needs needs = MakeCriterion(Str(name, "(", option, ")"))->needs();
    if (needs != sheet.defaults) sheet.with.push_back({option, needs});
  };
  Registry<Criterion>::Global().Get("criterion", name).describe([&](const Schema& schema) {
    for (const Field& field : schema.fields()) {
      for (const std::string& choice : field.choices) ask(Str(field.name, "=", choice));
      if (std::holds_alternative<bool*>(field.target))
        for (const char* value : {"true", "false"}) ask(Str(field.name, "=", value));
    }
  });
  return sheet;
}

std::string NeedsText(const Needs& needs) {
  std::string text;
  for (const Need need : needs) text += Str(text.empty() ? "" : ", ", NeedName(need));
  return text.empty() ? "none" : text;
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

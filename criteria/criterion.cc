#include "criteria/criterion.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "env/base/config.h"
#include "env/base/error.h"

namespace espalier {
namespace {

std::string Trimmed(const std::string& text) {
  const size_t first = text.find_first_not_of(" \t");
  if (first == std::string::npos) return "";
  return text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

bool IsWord(const std::string& value) {
  if (value == "true" || value == "false" || value.empty()) return false;
  return std::isalpha(static_cast<unsigned char>(value.front())) &&
         std::all_of(value.begin(), value.end(),
                     [](unsigned char c) { return std::isalnum(c) || c == '_' || c == '-'; });
}

/// "mode=vector, p = 3" as the lines of a TOML table.
std::string OptionLines(const std::string& text, const std::string& options) {
  std::string lines;
  for (size_t start = 0; start < options.size();) {
    size_t end = options.find(',', start);
    if (end == std::string::npos) end = options.size();
    const std::string option = options.substr(start, end - start);
    const size_t equals = option.find('=');
    if (equals == std::string::npos || option.find('\n') != std::string::npos)
      throw Error(ErrorKind::kConfig,
                  Str("criterion '", text, "': '", Trimmed(option), "' is no option"),
                  "write NAME(key=value, key=value)");
    std::string value = Trimmed(option.substr(equals + 1));
    if (IsWord(value)) value = Str('"', value, '"');
    lines += Str(Trimmed(option.substr(0, equals)), " = ", value, "\n");
    start = end + 1;
  }
  return lines;
}

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
  const auto& registry = Registry<Criterion>::Global();
  const size_t open = text.find('(');
  const std::string name = Trimmed(text.substr(0, open));
  if (open == std::string::npos) return registry.Create("criterion", name);
  const std::string rest = Trimmed(text.substr(open + 1));
  if (rest.empty() || rest.back() != ')')
    throw Error(ErrorKind::kConfig, Str("criterion '", text, "': ')' is missing"),
                "write NAME(key=value, key=value)");
  registry.Get("criterion", name);
  const std::string lines = OptionLines(text, rest.substr(0, rest.size() - 1));
  return registry.Create(
      "criterion", name,
      ConfigDocument::Parse("[criterion]\n" + lines, Str("criterion '", text, "'"))
          .Section("criterion"));
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

#include "search/first_points.h"

#include <algorithm>
#include <charconv>
#include <set>

#include "env/base/error.h"
#include "search/trial_journal.h"

namespace espalier {
namespace {

/// "0.5" or "0.5,0.75,...": keep ratios of all groups.
Decision ParsePoint(const std::string& text, size_t groups) {
  Decision decision;
  const char* at = text.data();
  const char* const end = text.data() + text.size();
  while (at < end) {
    double ratio = 0;
    const auto [next, code] = std::from_chars(at, end, ratio);
    const bool ends_well = next == end || (*next == ',' && next + 1 != end);
    if (code != std::errc() || !ends_well || !(ratio > 0 && ratio <= 1))
      throw Error(ErrorKind::kConfig,
                  Str("[strategy] enqueue: '", text, "' is no list of keep ratios in (0, 1]"),
                  "write \"0.5\" or one ratio per group, with commas");
    decision.push_back(ratio);
    at = next == end ? end : next + 1;
  }
  if (decision.size() == 1) decision.resize(groups, decision.front());
  if (decision.size() != groups)
    throw Error(ErrorKind::kConfig,
                Str("[strategy] enqueue: '", text, "' has ", decision.size(),
                    " ratios, the network ", groups, " groups"),
                "`espalier inspect` lists them");
  return decision;
}

}  // namespace

std::vector<Proposal> FirstPoints(const SearchLoopConfig& config, size_t groups) {
  std::vector<Proposal> first = {{.decision = Decision(groups, 1.0)}};
  for (const std::string& text : config.enqueue)
    first.push_back({.decision = ParsePoint(text, groups)});
  if (config.warm_start.empty()) return first;
  std::vector<Trial> known = ReadTrials(config.warm_start);
  std::erase_if(known, [](const Trial& t) { return t.failed || t.dropped || !t.feasible; });
  std::stable_sort(known.begin(), known.end(), [](const Trial& a, const Trial& b) {
    return std::tuple(a.samples, a.proposal.fidelity, a.value) >
           std::tuple(b.samples, b.proposal.fidelity, b.value);
  });
  std::set<std::vector<int64_t>> taken;
  for (const Trial& trial : known) {
    if (trial.proposal.decision.size() != groups)
      throw Error(ErrorKind::kConfig,
                  Str("[strategy] warm_start: '", config.warm_start, "' is of a network with ",
                      trial.proposal.decision.size(), " groups, this one has ", groups));
    if (!taken.insert(trial.kept).second) continue;
    first.push_back({.decision = trial.proposal.decision});
    if (static_cast<int64_t>(taken.size()) == config.warm_points) break;
  }
  return first;
}

}  // namespace espalier

#include "experiments/score_histogram.h"

#include <algorithm>
#include <limits>

namespace espalier {

using nlohmann::ordered_json;

ordered_json ScoreHistogram(const std::vector<std::vector<double>>& scores,
                            const Selection& selection) {
  constexpr int64_t kBins = 20;
  double low = std::numeric_limits<double>::infinity(), high = -low;
  for (const auto& group : scores)
    for (const double score : group) low = std::min(low, score), high = std::max(high, score);
  if (!(high > low)) return nullptr;
  std::vector<int64_t> kept(kBins), removed(kBins);
  for (size_t group = 0; group < scores.size(); ++group) {
    std::vector<bool> stays(scores[group].size());
    for (const int64_t unit : selection[group]) stays[static_cast<size_t>(unit)] = true;
    for (size_t unit = 0; unit < scores[group].size(); ++unit) {
      const auto bin = static_cast<int64_t>((scores[group][unit] - low) / (high - low) * kBins);
      auto& counts = stays[unit] ? kept : removed;
      ++counts[static_cast<size_t>(std::min(bin, kBins - 1))];
    }
  }
  return {{"low", low}, {"high", high}, {"kept", kept}, {"removed", removed}};
}

}  // namespace espalier

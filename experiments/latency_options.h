#pragma once

#include <nlohmann/json.hpp>

#include <filesystem>
#include <string>

#include "env/cost/cost.h"
#include "env/latency/latency.h"
#include "env/space/plan.h"
#include "experiments/command_line.h"

namespace espalier {

/// --batch, --device, --precision and --latency-cache of commands that read no config; operators
/// have as many threads as --threads says.
void AddLatencyOptions(OptionList& add);
LatencyConfig ReadLatencyOptions(const Arguments& arguments);

/// What was measured, and what it was stored in.
struct LatencyStudy {
  LatencyConfig config;
  at::Device device;
  LatencyCache cache;
  MeasuredLatency measured;
};
/// Measures what the cache lacks and makes latency one of the costs. first: a cache file that is
/// taken instead of the user's where there is one, such as that of the run that is continued.
LatencyStudy AddLatency(const Space& space, const LatencyConfig& config, at::Device device,
                        CostModel& cost, const std::filesystem::path& first = {});

/// {"device", "points", "measured", "networks", "held_out", "median_error", "worst_error",
///  "checks": [[predicted, measured], ...], "correction", "left_out"}.
nlohmann::ordered_json LatencyToJson(const LatencyStudy& study);
/// A line on how good predictions are. all: also every network that was held out.
std::string LatencyText(const nlohmann::ordered_json& latency, bool all);

/// Says so when MACs fell and latency did not follow; "" when it did. Amounts before and after.
std::string LatencyVerdict(double macs_before, double macs_after, double ms_before,
                           double ms_after);

/// A network before and after a cut, both measured now: {"measured": [before, after], "batch",
/// "threads", "precision", "verdict"}; with a study also {"predicted": [...], "median_error",
/// "held_out"}. The verdict compares with the MACs of `selection`.
nlohmann::ordered_json LatencyChange(const LatencyConfig& config, at::Device device,
                                     const LatencyStudy* study, const CostModel& cost,
                                     const Selection& selection, const Network& before,
                                     const Network& after);
/// That in one line.
std::string LatencyChangeText(const nlohmann::ordered_json& change);

}  // namespace espalier

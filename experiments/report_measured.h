#pragma once

#include <nlohmann/json_fwd.hpp>

#include <string>
#include <vector>

namespace espalier {

/// What a strategy's choice costs after the cut.
struct StrategyCost {
  std::string strategy;
  double macs = 0, params = 0;
};

/// The figure of the final network as a card, with those before and right after the cut.
/// test: the result of the measuring stage.
std::string MeasuredCard(const nlohmann::ordered_json& test);

/// Time of a forward before and after as a card, and in words when it did not follow the MACs.
/// latency: of the measuring stage.
std::string LatencyCard(const nlohmann::ordered_json& latency);

/// The chapter on what was measured, under the metric's name: bars with errors, and the controls
/// in numbers. costs: of the run's strategy, then of every control.
std::string MeasuredSection(const nlohmann::ordered_json& test, bool finetuned,
                            const std::vector<StrategyCost>& costs);

}  // namespace espalier

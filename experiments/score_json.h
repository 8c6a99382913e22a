#pragma once

#include <nlohmann/json.hpp>

#include <string>

#include "env/task/metric.h"

namespace espalier {

/// A measured figure in stage results, in `--json` and in reports: "metric", "value",
/// "standard_error", "loss" and "samples"; an accuracy also goes by "accuracy" and "images".
nlohmann::ordered_json ScoreToJson(const Score& score);

/// Copies what identifies the figure from one such object into another: all but loss and samples.
void CopyFigure(const nlohmann::ordered_json& from, nlohmann::ordered_json& to);

/// Of such an object; without "metric" it is an accuracy.
std::string MetricOf(const nlohmann::ordered_json& row);
double ValueOf(const nlohmann::ordered_json& row);

/// "91.25 %" where the metric is shown in percent, else five digits.
std::string FigureText(const std::string& metric, double value);
/// "91.25 % +- 0.28 %".
std::string FigureText(const nlohmann::ordered_json& row);
/// The metric's name as a heading or table column: "mean iou".
std::string MetricTitle(const std::string& metric);

}  // namespace espalier

#include "experiments/score_json.h"

#include <algorithm>
#include <cstdio>

#include "experiments/command_line.h"

namespace espalier {

using nlohmann::ordered_json;

ordered_json ScoreToJson(const Score& score) {
  ordered_json row = {{"metric", score.metric}, {"value", score.value}};
  if (score.metric == "accuracy") row["accuracy"] = score.value;
  row["standard_error"] = score.standard_error;
  row["loss"] = score.loss;
  row["samples"] = score.samples;
  if (score.metric == "accuracy") row["images"] = score.samples;
  return row;
}

void CopyFigure(const ordered_json& from, ordered_json& to) {
  for (const char* key : {"metric", "value", "accuracy", "standard_error"})
    if (from.contains(key)) to[key] = from[key];
}

std::string MetricOf(const ordered_json& row) { return row.value("metric", "accuracy"); }

double ValueOf(const ordered_json& row) {
  return row.contains("value") ? row["value"].get<double>() : row.at("accuracy").get<double>();
}

std::string FigureText(const std::string& metric, double value) {
  if (HasFact(metric, kPercent)) return Percent(value);
  char text[32];
  std::snprintf(text, sizeof text, "%.5g", value);
  return text;
}

std::string FigureText(const ordered_json& row) {
  const std::string metric = MetricOf(row);
  return Str(FigureText(metric, ValueOf(row)), " +- ",
             FigureText(metric, row.at("standard_error").get<double>()));
}

std::string MetricTitle(const std::string& metric) {
  std::string title = metric;
  std::replace(title.begin(), title.end(), '_', ' ');
  return title;
}

}  // namespace espalier

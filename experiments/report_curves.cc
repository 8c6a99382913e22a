#include "experiments/report_curves.h"

#include <algorithm>
#include <vector>

#include "experiments/report_charts.h"
#include "experiments/run_store.h"
#include "experiments/score_json.h"

namespace espalier {

using nlohmann::ordered_json;
namespace {

/// Metric and loss of a stage that trains, by epoch.
void AddTraining(const RunStore& store, const std::string& stage, const std::string& title,
                 std::vector<std::string>& charts) {
  std::string metric;
  Series loss{"training", {}}, train{"training", {}}, validation{"validation", {}};
  for (const auto& curve : store.Curves(stage))
    for (const auto& [epoch, value] : curve.points) {
      const std::pair<double, double> point(static_cast<double>(epoch), value);
      if (curve.name == "train_loss") {
        loss.points.push_back(point);
      } else if (curve.name.starts_with("train_")) {
        metric = curve.name.substr(std::string("train_").size());
        train.points.push_back(point);
      } else if (curve.name.starts_with("validation_")) {
        validation.points.push_back(point);
      }
    }
  if (loss.points.empty()) return;
  const bool points = loss.points.size() <= 40;
  charts.push_back(LineChart({train, validation}, {.title = title + ": " + MetricTitle(metric),
                                                   .x_label = "epoch",
                                                   .percent = HasFact(metric, kPercent),
                                                   .points = points}));
  charts.push_back(
      LineChart({loss}, {.title = title + ": loss", .x_label = "epoch", .points = points}));
}

/// How the units' norms moved: some percentiles by epoch, and all of them before and after.
void AddNorms(const ordered_json& sparsify, std::vector<std::string>& charts) {
  const auto rows = sparsify.at("norms").get<std::vector<std::vector<double>>>();
  const double step = 100.0 / static_cast<double>(rows.front().size() - 1);
  std::vector<Series> by_epoch;
  for (const double percentile : {10.0, 25.0, 50.0, 75.0}) {
    Series series{c10::str(percentile, " % of the units are below"), {}};
    for (size_t epoch = 0; epoch < rows.size(); ++epoch)
      series.points.emplace_back(static_cast<double>(epoch),
                                 rows[epoch][static_cast<size_t>(percentile / step)]);
    by_epoch.push_back(std::move(series));
  }
  Series before{"before", {}}, after{"after", {}}, penalty{"penalty", {}};
  for (size_t i = 0; i < rows.front().size(); ++i) {
    before.points.emplace_back(step * static_cast<double>(i), rows.front()[i]);
    after.points.emplace_back(step * static_cast<double>(i), rows.back()[i]);
  }
  double epoch = 0;
  for (const double value : sparsify.at("penalty")) penalty.points.emplace_back(++epoch, value);
  charts.push_back(LineChart({penalty}, {.title = "sparsity training: what the regulariser adds "
                                                  "to the loss",
                                         .x_label = "epoch"}));
  charts.push_back(LineChart(
      by_epoch,
      {.title = "norms of units, relative to their group's largest", .x_label = "epoch"}));
  charts.push_back(LineChart({before, after}, {.title = "norms of all units, sorted",
                                               .x_label = "share of the units, %"}));
}

}  // namespace

std::string CurveCharts(const std::filesystem::path& folder, const ordered_json& sparsify,
                        const ordered_json& search) {
  std::vector<std::string> charts;
  const RunStore store(folder / "run.db");
  AddTraining(store, "sparsify", "sparsity training", charts);
  if (sparsify.contains("norms")) AddNorms(sparsify, charts);
  // "loss/budget" joins the chart of "loss"; every other name has a chart of its own.
  std::vector<std::pair<std::string, std::vector<Series>>> panels;
  for (const std::string stage : {"search", "cut"})
    for (const auto& curve : store.Curves(stage)) {
      const std::string first = curve.name.substr(0, curve.name.find('/'));
      std::string label = first == curve.name ? "total" : curve.name.substr(first.size() + 1);
      std::replace(label.begin(), label.end(), '_', ' ');
      const std::string panel = (stage == "search" ? "search: " : "after the cut: ") + first;
      Series series{label, {}};
      for (const auto& [step, value] : curve.points)
        series.points.emplace_back(static_cast<double>(step), value);
      auto found = std::find_if(panels.begin(), panels.end(),
                                [&](const auto& known) { return known.first == panel; });
      if (found == panels.end()) found = panels.insert(panels.end(), {panel, {}});
      found->second.push_back(std::move(series));
    }
  for (const auto& [panel, series] : panels)
    charts.push_back(LineChart(series, {.title = panel, .x_label = "step"}));
  if (const auto& histogram = search.value("histogram", ordered_json()); !histogram.is_null())
    charts.push_back(Histogram(histogram["low"], histogram["high"],
                               histogram["kept"].get<std::vector<int64_t>>(),
                               histogram["removed"].get<std::vector<int64_t>>(),
                               {.title = "scores of all units", .x_label = "score"}));
  AddTraining(store, "finetune", "fine-tuning", charts);
  std::string html;
  for (const auto& chart : charts)
    if (!chart.empty()) html += "<div class=\"card\">" + chart + "</div>";
  return html;
}

}  // namespace espalier

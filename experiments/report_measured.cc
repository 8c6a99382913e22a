#include "experiments/report_measured.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <nlohmann/json.hpp>

#include "env/base/error.h"
#include "experiments/budget_options.h"
#include "experiments/command_line.h"
#include "experiments/report_charts.h"
#include "experiments/score_json.h"

namespace espalier {
namespace {

using nlohmann::ordered_json;

std::string Heading(const std::string& metric) {
  std::string title = MetricTitle(metric);
  title.front() = static_cast<char>(std::toupper(static_cast<unsigned char>(title.front())));
  return Html(title);
}

std::string WithError(const ordered_json& row) {
  const std::string metric = MetricOf(row);
  const double error = row.at("standard_error");
  return Str(FigureText(metric, ValueOf(row)), " <small>&plusmn; ",
             HasFact(metric, kPercent) ? Fixed(100 * error, 2) : FigureText(metric, error),
             "</small>");
}

/// "+1.25 points" in percent, else the difference.
std::string ChangeText(const ordered_json& before, const ordered_json& after) {
  const double change = ValueOf(after) - ValueOf(before);
  const std::string metric = MetricOf(before), sign = change < 0 ? "&minus;" : "+";
  return sign + (HasFact(metric, kPercent) ? Fixed(100 * std::abs(change), 2) + " points"
                                           : FigureText(metric, std::abs(change)));
}

/// What the metric is, where that is not plain from its name.
std::string Note(const std::string& metric) {
  std::string note;
  if (HasFact(metric, kLowerIsBetter)) note += "; lower is better";
  if (HasFact(metric, kNeedsUncut)) note += "; compared with the network before the cut";
  return note;
}

std::string ControlTable(const ordered_json& test, const std::vector<StrategyCost>& costs) {
  std::string html = Str(
      "<details><summary>Controls in numbers</summary><div class=\"scroll card\"><table><tr><th>"
      "strategy</th><th class=\"n\">",
      Html(MetricTitle(MetricOf(test["base"]))),
      " after the cut</th><th class=\"n\">MACs</th><th class=\"n\">parameters</th></tr>");
  for (size_t i = 0; i < costs.size(); ++i)
    html += Str("<tr><td>", Html(costs[i].strategy), "</td><td class=\"n\">",
                WithError(i == 0 ? test["cut"] : test["controls"][i - 1]["cut"]),
                "</td><td class=\"n\">", Millions(costs[i].macs), "</td><td class=\"n\">",
                Millions(costs[i].params), "</td></tr>");
  return html + "</table></div></details>\n";
}

}  // namespace

std::string MeasuredCard(const ordered_json& test) {
  const std::string metric = MetricOf(test["base"]);
  const auto figure = [&](const char* which) { return FigureText(metric, ValueOf(test[which])); };
  return Str("<div class=\"card fact\"><h3>", Heading(metric), "</h3><div class=\"big\">",
             figure("final"), "</div><p>before ", figure("base"), " (",
             ChangeText(test["base"], test["final"]), "); ", figure("cut"),
             " right after the cut</p></div>\n");
}

std::string LatencyCard(const ordered_json& latency) {
  const double before = latency["measured"][0], after = latency["measured"][1];
  const auto ms = [](const ordered_json& amount) { return CostText("latency_ms", amount); };
  const std::string verdict = latency["verdict"];
  const std::string predicted =
      latency.contains("predicted")
          ? Str("; predicted ", ms(latency["predicted"][1]), " of ", ms(latency["predicted"][0]),
                ", predictions are off by ", Percent(latency["median_error"], 1), " (median of ",
                latency["held_out"].get<int64_t>(), " cut networks)")
          : "";
  return Str("<div class=\"card fact\"><h3>Latency</h3><div class=\"big\">", ms(after),
             "</div><p>of ", ms(before), " measured (", Percent(after / before, 1), ")", predicted,
             "; batch ", latency["batch"].get<int64_t>(), ", ", latency["threads"].get<int64_t>(),
             " threads, ", Html(latency["precision"]), "</p>",
             verdict.empty() ? "" : Str("<p class=\"bad\">", Html(verdict), "</p>"), "</div>\n");
}

std::string MeasuredSection(const ordered_json& test, bool finetuned,
                            const std::vector<StrategyCost>& costs) {
  const std::string metric = MetricOf(test["base"]);
  std::vector<BarRow> rows;
  const auto add = [&](const std::string& label, const ordered_json& row,
                       const std::string& style) {
    rows.push_back({label, ValueOf(row), row.at("standard_error"), WithError(row), style});
  };
  add("before", test["base"], "base");
  if (test.contains("sparse")) add("sparse, uncut", test["sparse"], "step");
  add("right after the cut", test["cut"], "step");
  if (test.contains("refined")) add("refined", test["refined"], "step");
  if (finetuned)
    add("fine-tuned", test["final"], "ours");
  else
    rows.back().style = "ours";
  for (const auto& control : test["controls"]) {
    const auto name = control["strategy"].get<std::string>();
    add("control: " + name, control["cut"], "control");
    if (control.contains("refined"))
      add("control: " + name + ", refined", control["refined"], "control");
  }
  double full = 1;
  if (!HasFact(metric, kPercent)) {
    full = 0;
    for (const BarRow& row : rows) full = std::max(full, row.value + row.error);
  }
  const int64_t samples = test["base"].value("samples", test["base"].value("images", int64_t{0}));
  const bool controls = !test["controls"].empty();
  return Str("<h2>", Heading(metric), "</h2><p>", Heading(metric), " on ", samples,
             " test samples, with one standard error", Note(metric), ". ",
             controls ? "Controls meet the same budget with the same seed and are not fine-tuned: "
                        "compare them with &ldquo;right after the cut&rdquo;."
                      : "",
             "</p><div class=\"card\">", BarRows(rows, full), "</div>\n",
             controls ? ControlTable(test, costs) : "");
}

}  // namespace espalier

#include "experiments/report_front.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <vector>

#include "env/base/error.h"
#include "experiments/command_line.h"
#include "experiments/report_charts.h"
#include "experiments/score_json.h"

namespace espalier {
namespace {

using nlohmann::ordered_json;

constexpr const char* kRightAfter = "right after the cut";  // where no stage says otherwise

/// Loosest first.
std::vector<ordered_json> ByMacs(const ordered_json& front) {
  std::vector<ordered_json> rows(front.begin(), front.end());
  std::stable_sort(rows.begin(), rows.end(), [](const auto& a, const auto& b) {
    return a.at("macs").template get<double>() > b.at("macs").template get<double>();
  });
  return rows;
}

bool HasInterval(const ordered_json& row) { return row.at("low").is_number(); }

std::string Table(const std::vector<ordered_json>& rows, const std::string& metric, double uncut) {
  const auto figure = [&](const ordered_json& value) {
    return value.is_number() ? FigureText(metric, value.get<double>()) : std::string("&ndash;");
  };
  std::string html =
      Str("<table><tr><th>budget</th><th class=\"n\">MACs</th><th class=\"n\">of the uncut</th>"
          "<th class=\"n\">parameters</th><th class=\"n\">",
          Html(MetricTitle(metric)),
          ", forecast</th><th class=\"n\">95&#8239;% interval</th><th>plan</th></tr>");
  for (const ordered_json& row : rows) {
    const bool own = !row.contains("budget");
    const double macs = row.at("macs");
    const std::string budget = own ? "" : Str(row["budget"].get<double>());
    html +=
        Str("<tr><td class=\"whole\">", own ? "<b>the run's own</b>" : budget,
            "</td><td class=\"n\">", Millions(macs), "</td><td class=\"n\">",
            Percent(macs / uncut, 1), "</td><td class=\"n\">", Millions(row.at("params")),
            "</td><td class=\"n\">", figure(row.at("forecast")), "</td><td class=\"n\">",
            HasInterval(row) ? figure(row["low"]) + " to " + figure(row["high"]) : "none", "</td>");
    if (row.contains("cause"))
      html += Str("<td class=\"bad\">", Html(row["cause"].get<std::string>()), "</td></tr>");
    else
      html += Str("<td class=\"whole\"><code>",
                  own ? "best/plan.json" : Str("search/front-", budget, ".plan.json"),
                  "</code></td></tr>");
  }
  return html + "</table>";
}

/// The forecasts over the MACs that stay, between the ends of their intervals.
std::string Chart(const std::vector<ordered_json>& rows, const std::string& metric,
                  const std::string& measured, double uncut) {
  std::vector<Series> series = {{"forecast", {}}};
  if (std::any_of(rows.begin(), rows.end(), HasInterval))
    series.insert(series.end(), {{"95 % interval, low end", {}}, {"high end", {}}});
  const std::vector<const char*> keys = {"forecast", "low", "high"};
  for (auto row = rows.rbegin(); row != rows.rend(); ++row)
    for (size_t i = 0; i < series.size(); ++i) {
      const ordered_json& value = row->at(keys[i]);
      series[i].points.emplace_back(
          100 * row->at("macs").get<double>() / uncut,
          value.is_number() ? value.get<double>() : std::numeric_limits<double>::quiet_NaN());
    }
  return LineChart(series, {.title = Str(MetricTitle(metric), " ", measured, ", forecast"),
                            .x_label = "MACs that stay, %",
                            .percent = HasFact(metric, kPercent),
                            .points = true});
}

}  // namespace

std::string FrontSection(const ordered_json& search, double uncut_macs) {
  const ordered_json info = search.value("info", ordered_json::object());
  if (!info.contains("front") || !info.contains("metric")) return "";
  const std::string metric = info["metric"], source = info.at("forecast_on"),
                    measured = info.value("measured", kRightAfter);
  const std::vector<ordered_json> rows = ByMacs(info["front"]);
  const bool chosen_by = info.at("unseen") == 0;
  return Str(
      "<h2>Plans for every budget</h2><p>One order of all units, cut at each budget. A forecast is "
      "what the network is expected to measure ",
      Html(measured), ". Forecasts come from ", Html(source), ".",
      chosen_by ? " <b>Expect worse on other samples.</b>" : "",
      " <code>espalier apply</code> cuts by any of the plans.</p><div class=\"card scroll\">",
      Table(rows, metric, uncut_macs),
      "</div>\n<div class=\"card\" style=\"margin-top:14px;max-width:560px\">",
      Chart(rows, metric, measured, uncut_macs), "</div>\n");
}

std::string TradeOffSection(const ordered_json& search, double uncut_macs) {
  const ordered_json info = search.value("info", ordered_json::object());
  constexpr size_t kCurve = 3;  // fewer points are no curve
  if (!info.contains("trade_off") || info["trade_off"]["points"].size() < kCurve) return "";
  const std::string metric = info["trade_off"]["metric"];
  Series points{"best at these MACs or fewer", {}};
  for (const ordered_json& point : info["trade_off"]["points"])
    points.points.emplace_back(100 * point.at("macs").get<double>() / uncut_macs,
                               point.at("value"));
  return Str(
      "<h2>What the search found below the budget</h2><p>Candidates that no other beats in both, "
      "on "
      "the samples they were chosen by. <code>trials.jsonl</code> has them all.</p><div "
      "class=\"card\" style=\"max-width:560px\">",
      LineChart({points}, {.title = MetricTitle(metric) + " of candidates, " +
                                    info.value("measured", kRightAfter),
                           .x_label = "MACs that stay, %",
                           .percent = HasFact(metric, kPercent),
                           .points = true}),
      "</div>\n");
}

}  // namespace espalier

#include "experiments/league/league_report.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "env/base/files.h"
#include "env/task/metric.h"
#include "experiments/command_line.h"
#include "experiments/report_charts.h"
#include "experiments/report_style.h"
#include "experiments/score_json.h"

namespace espalier {
namespace {

using nlohmann::ordered_json;

/// Figures and differences of a metric, in percent where it is one.
class Figures {
 public:
  explicit Figures(const ordered_json& league)
      : metric_(league["metric"]), percent_(HasFact(metric_, kPercent)) {}
  std::string Value(double value) const { return FigureText(metric_, value); }
  std::string Plain(double value) const {
    return percent_ ? Fixed(100 * value, 2) : Fixed(value, 4);
  }
  /// "+1.2 +- 0.4"
  std::string Difference(const ordered_json& against, const char* sign) const {
    const double mean = against["mean"], half = against["half_width"];
    return Str(mean < 0 ? "-" : "+", Plain(std::abs(mean)), sign, Plain(half));
  }
  const char* unit() const { return percent_ ? " points" : ""; }
  bool percent() const { return percent_; }

 private:
  std::string metric_;
  bool percent_;
};

bool Played(const ordered_json& row) { return !row.contains("failed"); }

/// What a budget's table says, in words.
std::vector<std::string> Verdicts(const ordered_json& budget, const Figures& figures) {
  std::vector<std::string> words;
  const ordered_json* baseline = nullptr;
  std::vector<const ordered_json*> others;
  for (const ordered_json& row : budget["rows"]) {
    if (!Played(row)) {
      words.push_back(
          Str(row["strategy"].get<std::string>(), " failed: ", row["failed"].get<std::string>()));
      continue;
    }
    if (!row["baseline"].get<bool>())
      others.push_back(&row);
    else if (baseline == nullptr)
      baseline = &row;
  }
  const auto name = [](const ordered_json& row) { return row["strategy"].get<std::string>(); };
  if (baseline != nullptr)
    words.insert(words.begin(), Str("The best baseline is ", name(*baseline), " with ",
                                    figures.Value((*baseline)["mean"]), "."));
  std::map<std::string, std::vector<std::string>> by_verdict;
  for (const ordered_json* row : others)
    if (row->contains("against_best_baseline"))
      by_verdict[(*row)["against_best_baseline"]["verdict"]].push_back(
          Str(name(*row), " (", figures.Difference((*row)["against_best_baseline"], " +- "), ")"));
  const auto list = [&](const std::string& verdict, const std::string& text) {
    std::string names;
    for (const std::string& one : by_verdict[verdict]) names += (names.empty() ? "" : ", ") + one;
    if (!names.empty()) words.push_back(Str(text, names, "."));
  };
  list("better", Str("Better than it, in", figures.unit(), ": "));
  list("tie", "Not to be told from it: ");
  list("worse", "Worse: ");
  if (baseline != nullptr && !others.empty() && by_verdict["better"].empty())
    words.push_back("No learned or searching method beats the best baseline here.");
  for (const ordered_json* row : others)
    if (row->contains("against_random_search") &&
        (*row)["against_random_search"]["verdict"] != "better")
      words.push_back(Str(name(*row), " is not above random search by more than the interval (",
                          figures.Difference((*row)["against_random_search"], " +- "), ")."));
  return words;
}

std::string Cell(const ordered_json& row, const std::string& key, const Figures& figures,
                 const char* sign) {
  if (!row.contains(key)) return "";
  const std::string verdict = row[key]["verdict"];
  return Str(figures.Difference(row[key], sign), verdict == "tie" ? " tie" : "");
}

/// Best value so far against candidates, mean over seeds, for strategies that evaluate some.
std::vector<Series> Curves(const ordered_json& rows) {
  constexpr size_t kMost = 4;  // more lines than colours cannot be told apart
  std::vector<Series> series;
  for (const ordered_json& row : rows) {
    if (!Played(row) || series.size() == kMost) continue;
    std::map<double, std::pair<double, int>> sums;
    for (const ordered_json& curve : row["curves"])
      for (const ordered_json& point : curve) {
        auto& [sum, count] = sums[point[0].get<double>()];
        sum += point[1].get<double>();
        ++count;
      }
    const auto seeds = static_cast<int>(row["curves"].size());
    Series one{.name = row["strategy"], .points = {}};
    for (const auto& [step, total] : sums)
      if (total.second == seeds) one.points.emplace_back(step, total.first / seeds);
    if (one.points.size() > 1) series.push_back(std::move(one));
  }
  return series;
}

std::string BudgetSection(const ordered_json& budget, const ordered_json& league,
                          const Figures& figures) {
  const char* const sign = " &plusmn; ";
  std::string html =
      Str("<h2>", Fixed(100 * budget["macs"].get<double>(), 1), "&#8239;% of the MACs, ",
          budget["seeds"].size(), budget["seeds"].size() == 1 ? " seed" : " seeds",
          "</h2><ul class=\"notes\">");
  for (const std::string& words : Verdicts(budget, figures))
    html += Str("<li>", Html(words), "</li>");
  html += "</ul><div class=\"card\" style=\"margin-top:14px\">";
  double full = 0;
  std::vector<BarRow> bars;
  for (const ordered_json& row : budget["rows"]) {
    if (!Played(row)) continue;
    const double mean = row["mean"];
    full = std::max(full, figures.percent() ? 1.0 : std::abs(mean));
    bars.push_back({.label = row["strategy"],
                    .value = mean,
                    .error = row["deviation"],
                    .text = row["values"].size() > 1
                                ? Str(figures.Value(mean), " <small>&plusmn; ",
                                      figures.Plain(row["deviation"]), " over seeds</small>")
                                : figures.Value(mean),
                    .style = row["baseline"].get<bool>() ? "base" : "ours"});
  }
  html += BarRows(bars, full) +
          "</div>\n<div class=\"card scroll\" style=\"margin-top:14px\"><table>"
          "<tr><th>strategy</th><th class=\"n\">mean</th><th class=\"n\">deviation</th>"
          "<th class=\"n\">vs uniform</th><th class=\"n\">vs random search</th>"
          "<th class=\"n\">vs best baseline</th><th class=\"n\">MACs</th>"
          "<th class=\"n\">parameters</th><th class=\"n\">wall</th><th class=\"n\">CPU</th></tr>";
  for (const ordered_json& row : budget["rows"]) {
    html += Str("<tr><td>", Html(row["strategy"]), "</td>");
    if (!Played(row)) {
      html += Str("<td colspan=\"9\" class=\"bad\">failed: ", Html(row["failed"]), "</td></tr>");
      continue;
    }
    const auto cell = [&](const std::string& text) {
      html += Str("<td class=\"n\">", text, "</td>");
    };
    cell(figures.Value(row["mean"]));
    cell(figures.Plain(row["deviation"]));
    for (const std::string key :
         {"against_uniform", "against_random_search", "against_best_baseline"})
      cell(Cell(row, key, figures, sign));
    cell(Millions(row["macs"]));
    cell(Millions(row["params"]));
    cell(Fixed(row["wall_seconds"], 1) + " s");
    cell(Fixed(row["cpu_seconds"], 1) + " s");
    html += "</tr>";
  }
  html += "</table></div>\n";
  const std::vector<Series> curves = Curves(budget["rows"]);
  if (!curves.empty())
    html += Str(
        "<div class=\"card\" style=\"margin-top:14px;max-width:680px\">",
        LineChart(curves, {.title = Str("Best value so far on ", league["samples"].get<int64_t>(),
                                        " validation samples, the four best searches"),
                           .x_label = "candidate",
                           .percent = figures.percent()}),
        "</div>\n");
  return html;
}

}  // namespace

void WriteLeagueReport(const std::filesystem::path& file, const ordered_json& league) {
  const Figures figures(league);
  const std::string title = Str("League on ", league["network"].get<std::string>());
  std::string body;
  for (const ordered_json& budget : league["budgets"])
    body += BudgetSection(budget, league, figures);
  WriteFileAtomic(
      file,
      Str("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
          "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><title>",
          Html(title), "</title><style>", kReportStyle, "</style></head><body><main>\n<header>",
          kReportMark, "<div><h1>", Html(title), "</h1><p>", Html(league["metric"]), ", ",
          league["seeds"].size(), league["seeds"].size() == 1 ? " seed, " : " seeds, ",
          league["evaluations"].get<int64_t>(), " evaluations of ",
          league["samples"].get<int64_t>(), " samples a search; chosen on ",
          Html(league["chosen_on"]), ", reported on ", Html(league["reported_on"]),
          ", right after the cut. Intervals are 95&#8239;%, over seeds and samples together.</p>"
          "</div></header>\n",
          body, "</main><script>", kReportScript, "</script></body></html>\n"));
}

std::string LeagueText(const ordered_json& league) {
  const Figures figures(league);
  std::string text = Str("chosen on ", league["chosen_on"].get<std::string>(), ", reported on ",
                         league["reported_on"].get<std::string>(), "\n");
  for (const ordered_json& budget : league["budgets"]) {
    text += Str("\n", Fixed(100 * budget["macs"].get<double>(), 1), " % of the MACs\n");
    TextTable table({"strategy", "mean", "+-", "vs uniform", "vs random search", "vs best baseline",
                     "MACs", "wall s", "CPU s"});
    for (const ordered_json& row : budget["rows"]) {
      if (!Played(row)) {
        table.Add({row["strategy"], "failed", "", "", "", "", "", "", ""});
        continue;
      }
      const auto cell = [&](const char* key) { return Cell(row, key, figures, " +- "); };
      table.Add({row["strategy"], figures.Value(row["mean"]), figures.Plain(row["deviation"]),
                 cell("against_uniform"), cell("against_random_search"),
                 cell("against_best_baseline"), Millions(row["macs"]),
                 Fixed(row["wall_seconds"], 1), Fixed(row["cpu_seconds"], 1)});
    }
    text += table.Text();
    for (const std::string& words : Verdicts(budget, figures)) text += words + "\n";
  }
  return text;
}

}  // namespace espalier

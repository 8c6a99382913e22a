#include "experiments/report_charts.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "env/base/error.h"
#include "experiments/command_line.h"

namespace espalier {
namespace {

// Drawing units; the page scales the whole drawing. Panels are 320 to 560 pixels wide, so that
// letters of 12 units stay readable everywhere.
constexpr double kWidth = 460, kHeight = 240;
constexpr double kLeft = 46, kRight = 14, kTop = 12, kBottom = 40;

struct Scale {
  double low, high, from, to;
  double operator()(double value) const {
    return from + (value - low) / (high > low ? high - low : 1) * (to - from);
  }
};

std::string TickText(double value, double step) {
  if (std::abs(value) < 1e-9 * step) return "0";  // not "-0"
  constexpr int kMost = 6;
  int digits = 0;  // that show the step in full
  for (double rest = step; digits < kMost && std::abs(rest - std::round(rest)) > 1e-6; rest *= 10)
    ++digits;
  if (std::abs(value) >= 1e6) return Str(value / 1e6, "M");
  return Fixed(value, digits);
}

std::string Axes(const Scale& x, const Scale& y, const std::vector<double>& x_ticks,
                 const std::vector<double>& y_ticks, const ChartOptions& options) {
  std::string svg;
  const double x_step = x_ticks.size() > 1 ? x_ticks[1] - x_ticks[0] : 1;
  const double y_step = y_ticks.size() > 1 ? y_ticks[1] - y_ticks[0] : 1;
  for (const double tick : y_ticks) {
    const double at = y(tick);
    svg += Str(
        "<line class=\"grid\" x1=\"", kLeft, "\" x2=\"", kWidth - kRight, "\" y1=\"", at,
        "\" y2=\"", at, "\"/><text class=\"tick\" text-anchor=\"end\" x=\"", kLeft - 6, "\" y=\"",
        at + 4, "\">",
        options.percent ? TickText(100 * tick, 100 * y_step) + "&#8239;%" : TickText(tick, y_step),
        "</text>");
  }
  for (const double tick : x_ticks)
    svg += Str("<text class=\"tick\" text-anchor=\"middle\" x=\"", x(tick), "\" y=\"",
               kHeight - kBottom + 16, "\">", TickText(tick, x_step), "</text>");
  svg += Str("<line class=\"axis\" x1=\"", kLeft, "\" x2=\"", kWidth - kRight, "\" y1=\"",
             kHeight - kBottom, "\" y2=\"", kHeight - kBottom, "\"/>");
  svg += Str("<text class=\"tick\" text-anchor=\"middle\" x=\"", (kLeft + kWidth - kRight) / 2,
             "\" y=\"", kHeight - 6, "\">", Html(options.x_label), "</text>");
  return svg;
}

std::string OpenSvg(const ChartOptions& options) {
  return Str("<svg viewBox=\"0 0 ", kWidth, ' ', kHeight, "\" role=\"img\" aria-label=\"",
             Html(options.title), "\">");
}

std::string Figure(const ChartOptions& options, const std::string& legend,
                   const std::string& body) {
  return Str("<figure class=\"chart\"><figcaption>", Html(options.title), legend, "</figcaption>",
             body, "</figure>\n");
}

}  // namespace

std::string Html(const std::string& text) {
  std::string safe;
  for (const char c : text) {
    switch (c) {
      case '&':
        safe += "&amp;";
        break;
      case '<':
        safe += "&lt;";
        break;
      case '>':
        safe += "&gt;";
        break;
      case '"':
        safe += "&quot;";
        break;
      case '\'':
        safe += "&#39;";
        break;
      default:
        safe += c;
    }
  }
  return safe;
}

std::vector<double> Ticks(double low, double high, int count) {
  if (!(high > low)) return {low};
  const double raw = (high - low) / count;
  const double power = std::pow(10, std::floor(std::log10(raw)));
  double step = 10 * power;
  for (const double factor : {1.0, 2.0, 2.5, 5.0})
    if (factor * power >= raw) {
      step = factor * power;
      break;
    }
  std::vector<double> ticks;
  for (double k = std::ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; ++k)
    ticks.push_back(k * step);
  return ticks;
}

std::string LineChart(const std::vector<Series>& series, const ChartOptions& options) {
  double x_low = std::numeric_limits<double>::infinity(), x_high = -x_low;
  double y_low = x_low, y_high = -x_low;
  for (const auto& line : series)
    for (const auto& [x, y] : line.points) {
      if (!std::isfinite(y)) continue;
      x_low = std::min(x_low, x), x_high = std::max(x_high, x);
      y_low = std::min(y_low, y), y_high = std::max(y_high, y);
    }
  if (!std::isfinite(x_low)) return "";
  if (!options.percent) y_low = std::min(0.0, y_low);  // losses and rates are read from zero
  if (y_low == y_high)
    y_low -= 0.5 * std::abs(y_low) + 1e-3, y_high += 0.5 * std::abs(y_high) + 1e-3;
  const auto y_ticks = Ticks(y_low, y_high, 4);
  const double y_step = y_ticks.size() > 1 ? y_ticks[1] - y_ticks[0] : y_high - y_low;
  y_low = std::floor(y_low / y_step + 1e-9) * y_step;
  y_high = std::ceil(y_high / y_step - 1e-9) * y_step;
  if (options.percent) y_high = std::min(y_high, 1.0);
  const Scale x{x_low, x_high, kLeft, kWidth - kRight};
  const Scale y{y_low, y_high, kHeight - kBottom, kTop};

  auto x_ticks = Ticks(x_low, x_high, 6);
  std::erase_if(x_ticks, [](double tick) { return tick != std::round(tick); });  // steps, epochs
  std::string svg = OpenSvg(options) + Axes(x, y, x_ticks, Ticks(y_low, y_high, 4), options);
  std::string legend;
  nlohmann::ordered_json data = {{"percent", options.percent},
                                 {"x", options.x_label},
                                 {"left", kLeft / kWidth},
                                 {"right", 1 - kRight / kWidth},
                                 {"low", x_low},
                                 {"high", x_high},
                                 {"series", nlohmann::ordered_json::array()}};
  for (size_t i = 0; i < series.size(); ++i) {
    std::string path;
    nlohmann::ordered_json values = nlohmann::ordered_json::array();
    bool pen_down = false;
    for (const auto& [at, value] : series[i].points) {
      if (!std::isfinite(value)) {
        pen_down = false;
        continue;
      }
      path += Str(pen_down ? 'L' : 'M', Fixed(x(at), 1), ' ', Fixed(y(value), 1));
      pen_down = true;
      values.push_back({at, value});
    }
    svg += Str("<path class=\"line s", i % 4, "\" d=\"", path, "\"/>");
    if (options.points || series[i].points.size() < 2)
      for (const auto& [at, value] : series[i].points)
        if (std::isfinite(value))
          svg += Str("<circle class=\"dot s", i % 4, "\" r=\"3\" cx=\"", Fixed(x(at), 1),
                     "\" cy=\"", Fixed(y(value), 1), "\"/>");
    legend +=
        Str("<span class=\"key\"><i class=\"s", i % 4, "\"></i>", Html(series[i].name), "</span>");
    data["series"].push_back({{"name", series[i].name}, {"values", values}});
  }
  svg += Str("<line class=\"cursor\" y1=\"", kTop, "\" y2=\"", kHeight - kBottom, "\"/></svg>");
  return Figure(options, "<span class=\"legend\">" + legend + "</span>",
                Str("<div class=\"plot\" data-plot=\"", Html(data.dump()), "\">", svg, "</div>"));
}

std::string BarRows(const std::vector<BarRow>& rows, double full) {
  std::string html = "<div class=\"bars\">";
  const auto share = [full](double value) {
    return Fixed(100 * std::clamp(full > 0 ? value / full : 0, 0.0, 1.0), 2) + "%";
  };
  for (const auto& row : rows) {
    html += Str("<div class=\"bar ", row.style, "\"><span class=\"name\">", Html(row.label),
                "</span><span class=\"track\"><i style=\"width:", share(row.value), "\"></i>");
    if (row.error > 0)
      html += Str("<b style=\"left:", share(row.value - row.error), ";width:calc(",
                  share(row.value + row.error), " - ", share(row.value - row.error), ")\"></b>");
    html += Str("</span><span class=\"value\">", row.text, "</span></div>");
  }
  return html + "</div>\n";
}

std::string Columns(const std::vector<Column>& columns) {
  std::string html = "<div class=\"columns\">";
  for (size_t i = 0; i < columns.size();) {
    size_t end = i;
    while (end < columns.size() && columns[end].run == columns[i].run) ++end;
    html += Str("<div class=\"run\" style=\"flex-grow:", end - i, "\"><div class=\"set\">");
    for (; i < end; ++i) {
      const auto& column = columns[i];
      const double ratio = column.units > 0 ? column.kept / column.units : 0;
      html +=
          Str("<span class=\"column\" data-tip=\"", Html(column.label), ": ", column.kept, " of ",
              column.units, " kept\"><i style=\"height:", Fixed(100 * ratio, 1), "%\"></i></span>");
    }
    html += Str("</div><small>", Html(columns[i - 1].run), "</small></div>");
  }
  return html + "</div>\n";
}

std::string Histogram(double low, double high, const std::vector<int64_t>& kept,
                      const std::vector<int64_t>& removed, const ChartOptions& options) {
  int64_t most = 1;
  for (size_t bin = 0; bin < kept.size(); ++bin) most = std::max(most, kept[bin] + removed[bin]);
  const Scale x{low, high, kLeft, kWidth - kRight};
  const auto y_ticks = Ticks(0, static_cast<double>(most), 4);
  const Scale y{0, static_cast<double>(most), kHeight - kBottom, kTop};
  std::string svg = OpenSvg(options) + Axes(x, y, Ticks(low, high, 5), y_ticks, options);
  const double step = (high - low) / static_cast<double>(kept.size());
  for (size_t bin = 0; bin < kept.size(); ++bin) {
    const double left = x(low + step * static_cast<double>(bin)) + 1;
    const double width = x(low + step) - x(low) - 2;
    const auto bar = [&](int64_t from, int64_t count, const char* style) {
      if (count == 0) return;
      const double top = y(static_cast<double>(from + count));
      svg += Str("<rect class=\"", style, "\" x=\"", Fixed(left, 1), "\" y=\"", Fixed(top, 1),
                 "\" width=\"", Fixed(width, 1), "\" height=\"",
                 Fixed(y(static_cast<double>(from)) - top, 1), "\"><title>", count,
                 style == std::string("kept") ? " kept" : " removed", "</title></rect>");
    };
    bar(0, removed[bin], "removed");
    bar(removed[bin], kept[bin], "kept");
  }
  return Figure(options,
                "<span class=\"legend\"><span class=\"key\"><i class=\"s0\"></i>kept</span>"
                "<span class=\"key\"><i class=\"gone\"></i>removed</span></span>",
                "<div class=\"plot\">" + svg + "</svg></div>");
}

}  // namespace espalier

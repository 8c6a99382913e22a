#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace espalier {

/// Text made safe for HTML, attribute values included.
std::string Html(const std::string& text);

struct Series {
  std::string name;
  std::vector<std::pair<double, double>>
      points;  ///< by x; values that are not finite break the line
};

struct ChartOptions {
  std::string title;
  std::string x_label;
  bool percent = false;  ///< y values are fractions, shown as percent
  bool points = false;   ///< mark every point
};

/// Lines over a shared x axis as inline SVG with a legend. The data rides along for the hover
/// script.
std::string LineChart(const std::vector<Series>& series, const ChartOptions& options);

/// One row of a bar table with an optional whisker, lengths relative to `full`.
struct BarRow {
  std::string label;
  double value = 0;
  double error = 0;   ///< half length of the whisker; 0 = none
  std::string text;   ///< what stands at the end of the row
  std::string style;  ///< class of the bar: "base", "ours", "control"
};
std::string BarRows(const std::vector<BarRow>& rows, double full);

/// Vertical bars, one a group, in runs with a caption under each; the pale part is what was
/// removed.
struct Column {
  std::string run;    ///< caption; neighbours with the same one stand together
  std::string label;  ///< full name, shown on hover
  double kept = 0, units = 1;
};
std::string Columns(const std::vector<Column>& columns);

/// Two counts a bin, stacked, as inline SVG.
std::string Histogram(double low, double high, const std::vector<int64_t>& kept,
                      const std::vector<int64_t>& removed, const ChartOptions& options);

/// Round tick positions that cover [low, high], about `count` of them.
std::vector<double> Ticks(double low, double high, int count);

}  // namespace espalier

#include "experiments/report.h"

#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "env/base/error.h"
#include "env/base/files.h"
#include "experiments/command_line.h"
#include "experiments/report_charts.h"
#include "experiments/report_curves.h"
#include "experiments/report_front.h"
#include "experiments/report_measured.h"
#include "experiments/report_style.h"
#include "experiments/run_folder.h"
#include "experiments/settings.h"

namespace espalier {
namespace {

using nlohmann::ordered_json;
namespace fs = std::filesystem;

std::string Text(const ordered_json& json, const std::string& key) {
  return json.is_object() && json.contains(key) && json[key].is_string()
             ? json[key].get<std::string>()
             : "";
}
std::string Short(const std::string& hash) { return hash.substr(0, 16); }
std::string Scientific(double value) {
  if (value == 0) return "0";
  char text[32];
  std::snprintf(text, sizeof text, "%.2g", value);
  std::string html = text;
  if (const size_t minus = html.find('-', 1); minus != std::string::npos)
    html.replace(minus, 1, "&#8209;");  // no line break inside a number
  return html;
}
std::string Duration(double seconds) {
  if (seconds < 90) return Fixed(seconds, seconds < 10 ? 1 : 0) + " s";
  if (seconds < 5400) return Fixed(seconds / 60, 1) + " min";
  return Fixed(seconds / 3600, 1) + " h";
}

/// Everything the page needs, as far as the run has come.
class Page {
 public:
  explicit Page(const fs::path& folder) : folder_(folder) {
    resolved_ = ReadFile(folder / "resolved.toml");
    settings_ = SettingsOf(resolved_);
    manifest_ = fs::exists(folder / "manifest.json") ? ReadJson(folder / "manifest.json")
                                                     : ordered_json::object();
    for (const std::string name :
         {"space", "sparsify", "search", "cut", "finetune", "verify", "test"})
      if (fs::exists(folder / "stages" / (name + ".json")))
        stages_[name] = ReadJson(folder / "stages" / (name + ".json"));
    convention_ = Text(Stage("space"), "convention");
  }

  std::string Make() const {
    return Str(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><title>",
        Html(Title()), "</title><style>", kReportStyle, "</style></head><body><main>\n", Header(),
        Facts(), Measured(), Front(), Kept(), Curves(), Proof(), Pinned(), Notes(), Configuration(),
        Footer(), "</main><script>", kReportScript, "</script></body></html>\n");
  }

 private:
  const ordered_json& Stage(const std::string& name) const {
    static const ordered_json kNone = ordered_json::object();
    const auto found = stages_.find(name);
    return found == stages_.end() ? kNone : found->second;
  }
  bool Has(const std::string& stage) const { return stages_.contains(stage); }
  std::string Setting(const std::string& key) const {
    const auto found = settings_.find(key);
    if (found == settings_.end()) return "";
    std::string value = found->second;
    if (value.size() >= 2 && value.front() == '"') value = value.substr(1, value.size() - 2);
    return value;
  }
  std::string Title() const {
    const std::string network = Text(Stage("space"), "network");
    return Str(network.empty() ? Setting("model.name") : network, " pruned by ",
               Setting("strategy.name"));
  }

  std::string Header() const {
    const auto created = Text(manifest_, "created");
    const auto threads = manifest_.value("threads", 0);
    std::string unfinished;
    for (const auto& [stage, word] : std::map<std::string, std::string>{
             {"search", "search"}, {"verify", "certificate"}, {"test", "measurement"}})
      if (!Has(stage)) unfinished += (unfinished.empty() ? "" : ", ") + word;
    return Str("<header>", kReportMark, "<div><h1>", Html(Title()), "</h1><p>",
               Html(created.substr(0, 10)), " ",
               Html(created.size() > 16 ? created.substr(11, 5) : ""), " UTC &middot; seed ",
               Html(Setting("run.seed")), " &middot; ", Html(Text(manifest_, "device")), ", ",
               threads, " threads, ", Html(Text(manifest_, "processor")), " &middot; espalier ",
               Html(Text(manifest_, "espalier")), ", LibTorch ", Html(Text(manifest_, "libtorch")),
               "</p><p><code>", Html(Text(manifest_, "command")), "</code></p>",
               unfinished.empty() ? ""
                                  : "<p class=\"bad\">This run is not finished: " + unfinished +
                                        " still to come.</p>",
               "</div></header>\n");
  }

  std::string CostCard(const std::string& kind, const std::string& title,
                       const std::string& note) const {
    const auto& pair = Stage("search").at("cost").at(convention_).at(kind);
    const double before = pair[0], after = pair[1];
    return Str("<div class=\"card fact\"><h3>", title, "</h3><div class=\"big\">", Millions(after),
               "</div><p>of ", Millions(before), ", ", Fixed(100 * (1 - after / before), 1),
               "&#8239;% removed", note, "</p></div>\n");
  }

  std::string Facts() const {
    std::string html = "<section class=\"cards\">\n";
    if (Has("test")) html += MeasuredCard(Stage("test"));
    if (Has("search")) {
      html += CostCard("macs", "MACs", Str(" (", Html(convention_), " count)"));
      html += CostCard("params", "Parameters", "");
    }
    if (Stage("test").contains("latency")) html += LatencyCard(Stage("test")["latency"]);
    if (Has("verify")) {
      const auto& proof = Stage("verify");
      const bool passed = proof["passed"];
      html += Str("<div class=\"card fact\"><h3>Certificate</h3><div class=\"big ",
                  passed ? "good\">proven" : "bad\">failed", "</div><p>masked and cut differ by ",
                  Scientific(proof["max_rel_error"]), " relative</p></div>\n");
    }
    return html + "</section>\n";
  }

  std::string Measured() const {
    if (!Has("test")) return "";
    const auto& test = Stage("test");
    std::vector<StrategyCost> costs;
    const auto add = [&](const ordered_json& found) {
      const auto& cost = found["cost"][convention_];
      costs.push_back({Text(found, "strategy"), cost["macs"][1], cost["params"][1]});
    };
    add(Stage("search"));
    for (const auto& control : test["controls"])
      add(ReadJson(folder_ / "stages" / ("control-" + Text(control, "strategy") + ".json")));
    return MeasuredSection(test, Has("finetune"), costs);
  }

  std::string Front() const {
    if (!Has("search")) return "";
    const double uncut = Stage("search").at("cost").at(convention_).at("macs")[0];
    return FrontSection(Stage("search"), uncut) + TradeOffSection(Stage("search"), uncut);
  }

  std::string Kept() const {
    if (!Has("search")) return "";
    const auto& groups = Stage("space")["groups"];
    const auto& kept = Stage("search")["kept"];
    std::vector<Column> columns;
    std::string table;
    for (size_t i = 0; i < groups.size(); ++i) {
      const std::string name = groups[i]["name"];
      const double units = groups[i]["units"], count = kept[i];
      columns.push_back({name.substr(0, name.find('.')), name, count, units});
      table += Str("<tr><td><code>", Html(name), "</code></td><td class=\"n\">", count,
                   "</td><td class=\"n\">", units, "</td><td class=\"n\">",
                   Percent(count / units, 1), "</td></tr>");
    }
    return Str(
        "<h2>What was kept</h2><p>", groups.size(),
        " groups in the order of the network; a column is a group, its filled part the share of "
        "units that stay.</p><div class=\"card\">",
        Columns(columns),
        "</div><details><summary>All groups</summary><div class=\"scroll card\"><table><tr><th>"
        "group</th><th class=\"n\">kept</th><th class=\"n\">units</th><th class=\"n\">ratio</th>"
        "</tr>",
        table, "</table></div></details>\n");
  }

  std::string Curves() const {
    const std::string charts = CurveCharts(folder_, Stage("sparsify"), Stage("search"));
    if (charts.empty()) return "";
    std::string times;
    if (Has("sparsify"))
      times +=
          Str("Sparsity training took ", Duration(Stage("sparsify").value("seconds", 0.0)), ". ");
    if (Has("search"))
      times += Str("Search took ", Duration(Stage("search").value("seconds", 0.0)), ".");
    if (Has("finetune"))
      times += Str(" Fine-tuning took ", Duration(Stage("finetune").value("seconds", 0.0)), ".");
    return Str("<h2>How it went</h2><p>", times, "</p><div class=\"pair\">", charts, "</div>\n");
  }

  std::string Proof() const {
    if (!Has("verify")) return "";
    const auto& proof = Stage("verify");
    std::string html =
        "<h2>Certificate</h2><p>The cut network computes what the uncut network computes "
        "with the removed units masked. <code>espalier verify</code> checks it again."
        "</p><div class=\"card\"><dl>";
    const auto item = [&](const std::string& name, const std::string& value) {
      html += Str("<dt>", name, "</dt><dd>", value, "</dd>");
    };
    const auto hash = [&](const std::string& name, const std::string& key) {
      item(name, Str("<code title=\"", Text(proof, key), "\">", Short(Text(proof, key)),
                     "&hellip;</code>"));
    };
    item("masked against cut, float32",
         Str(Scientific(proof["max_rel_error"]), " relative, ", Scientific(proof["max_abs_error"]),
             " absolute; allowed ", Scientific(proof["tolerance"])));
    item("the same in double precision", Str(Scientific(proof["max_rel_error_f64"]), " relative"));
    item("removed units overwritten with noise",
         Str(proof["invariance_units"].get<int64_t>(), " units, output ",
             proof["invariance_exact"].get<bool>() ? "unchanged to the last bit" : "CHANGED"));
    const double noise = proof.value("noise", 0.0);
    item("control: masked against uncut",
         Scientific(proof["control"]) + " relative" +
             (noise > 0 ? Str(", with noise of ", noise, " deviations in what goes") : ""));
    hash("source weights", "source_sha256");
    hash("cut weights", "pruned_sha256");
    hash("plan", "plan_sha256");
    html += "</dl>";
    if (proof.contains("checks") && !proof["checks"].empty()) {
      html +=
          "<details><summary>Checks of the written files</summary><div class=\"scroll\"><table>";
      for (const auto& check : proof["checks"])
        html += Str("<tr><td class=\"",
                    check["passed"].get<bool>() ? "good\">&#10003;" : "bad\">&#10007;", "</td><td>",
                    Html(check["name"]), "</td><td>", Html(check["detail"]), "</td></tr>");
      html += "</table></div></details>";
    }
    return html + "</div>\n";
  }

  std::string Pinned() const {
    if (!Has("space")) return "";
    struct Reason {
      int64_t axes = 0, coordinates = 0;
      std::string examples;
    };
    std::map<std::string, Reason> reasons;
    for (const auto& pin : Stage("space")["pinned"]) {
      auto& reason = reasons[pin["reason"]];
      reason.coordinates += pin["count"].get<int64_t>();
      if (reason.axes++ < 3)
        reason.examples +=
            (reason.examples.empty() ? "" : ", ") + pin["parameter"].get<std::string>();
      else if (reason.axes == 4)
        reason.examples += ", ...";
    }
    std::string rows;
    for (const auto& [reason, found] : reasons)
      rows += Str("<tr><td>", Html(reason), "</td><td class=\"n\">", found.axes,
                  "</td><td class=\"n\">", found.coordinates, "</td><td><code>",
                  Html(found.examples), "</code></td></tr>");
    const std::string body =
        rows.empty()
            ? "<p>Nothing: every unit could have been removed.</p>"
            : "<table><tr><th>reason</th><th class=\"n\">axes</th><th class=\"n\">channels</th>"
              "<th>where</th></tr>" +
                  rows + "</table>";
    std::string uncounted;
    for (const auto& name : Stage("space")["uncounted"])
      uncounted += (uncounted.empty() ? "" : ", ") + name.get<std::string>();
    if (!uncounted.empty())
      uncounted = "<p class=\"lead\">Operators that no MAC convention counts: <code>" +
                  Html(uncounted) + "</code></p>";
    return Str(
        "<h2>What could not be removed, and why</h2><p>Channels that an operation forbids to "
        "remove.</p><div class=\"card scroll\">",
        body, "</div>", uncounted, "\n");
  }

  std::string Notes() const {
    std::vector<std::string> notes;
    const auto& data = Stage("space").value("data", ordered_json::object());
    const auto count = [&](const char* key) { return data.value(key, int64_t{0}); };
    notes.push_back(
        "The test samples were read once, after everything was decided, for all networks "
        "together. Nothing was chosen by what they say.");
    if (Text(data, "seen") == "train")
      notes.push_back(Str("The given weights had been trained on <b>all</b> training samples, the ",
                          count("validation"),
                          " validation samples included: figures on those are too good to be an "
                          "estimate. Test figures are not affected."));
    else
      notes.push_back(Str(
          "Search and fine-tuning used ", count("train"), " training samples; the ",
          count("validation"), " validation samples were not trained on by this run. ",
          Text(data, "held_out").empty()
              ? "Whether the given weights had been trained on them is not declared ([data] seen)."
              : "The given weights state what they held out: " + Html(Text(data, "held_out")) +
                    "."));
    if (Has("finetune"))
      notes.push_back(
          "The network after the last epoch is the result, not the best of all epochs.");
    notes.push_back(
        "Errors are standard errors over the test samples. They say nothing about "
        "other seeds: this is one run.");
    notes.push_back(Str("MACs are multiply-accumulates at batch 1 as the convention &ldquo;",
                        Html(convention_), "&rdquo; counts them; FLOPs are about twice that."));
    std::string html;
    for (const auto& note : notes) html += "<li>" + note + "</li>";
    return Str("<h2>Read this with the numbers</h2><div class=\"card\"><ul class=\"notes\">", html,
               "</ul></div>\n");
  }

  std::string Configuration() const {
    std::string rows, section;
    std::istringstream lines(resolved_);
    for (std::string line; std::getline(lines, line);) {
      if (line.starts_with("[")) section = line.substr(1, line.find(']') - 1);
      const size_t equals = line.find(" = ");
      if (line.starts_with("#") || line.starts_with("[") || equals == std::string::npos) continue;
      std::string value = line.substr(equals + 3), origin;
      if (const size_t at = value.rfind("  # "); at != std::string::npos)
        origin = value.substr(at + 4), value.erase(at);
      rows += Str("<tr><td><code>", Html(section + "." + line.substr(0, equals)),
                  "</code></td><td><code>", Html(value), "</code></td><td>",
                  origin == "default" ? "" : Html(origin), "</td></tr>");
    }
    std::string facts;
    for (const auto& [name, value] : manifest_.items()) {
      if (value.is_structured()) continue;
      facts += Str("<dt>", Html(name), "</dt><dd>",
                   Html(value.is_string() ? value.get<std::string>() : value.dump()), "</dd>");
    }
    const ordered_json inputs = manifest_.value("inputs", ordered_json::object());
    for (const auto& [name, value] : inputs.items())
      facts +=
          Str("<dt>", Html(name), "</dt><dd><code>",
              Html(value.is_string() ? value.get<std::string>() : value.dump()), "</code></dd>");
    return Str(
        "<h2>Configuration</h2><p>Every key with its value; the last column says where it comes "
        "from, empty for defaults.</p><div class=\"card\"><details><summary>Resolved config"
        "</summary><div class=\"scroll\"><table><tr><th>key</th><th>value</th><th>from</th></tr>",
        rows,
        "</table></div></details><details><summary>Machine, versions and input hashes"
        "</summary><dl style=\"margin-top:10px\">",
        facts, "</dl></details></div>\n");
  }

  std::string Footer() const {
    return Str("<footer>Made by espalier ", Html(Text(manifest_, "espalier")), " from <code>",
               Html(folder_.string()), "</code>. This page needs no network.</footer>");
  }

  fs::path folder_;
  std::string resolved_, convention_;
  std::map<std::string, std::string> settings_;
  ordered_json manifest_;
  std::map<std::string, ordered_json> stages_;
};

}  // namespace

fs::path WriteReport(const fs::path& folder) {
  const fs::path file = folder / "report.html";
  WriteFileAtomic(file, Page(folder).Make());
  return file;
}

}  // namespace espalier

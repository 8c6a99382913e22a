#include <filesystem>
#include <nlohmann/json.hpp>

#include "env/base/log.h"
#include "experiments/commands/commands.h"
#include "experiments/folding.h"
#include "experiments/pipeline.h"
#include "experiments/score_json.h"

namespace espalier {
namespace {

using nlohmann::ordered_json;

std::string ResultText(const ordered_json& result) {
  const std::string metric = MetricOf(result["base"]);
  TextTable table({"", MetricTitle(metric), "+-", "MACs", "parameters"});
  const auto add = [&](const std::string& name, const ordered_json& row) {
    table.Add({name, FigureText(metric, ValueOf(row)), FigureText(metric, row["standard_error"]),
               Millions(row["macs"]), Millions(row["params"])});
  };
  add("before", result["base"]);
  if (result.contains("sparse")) add("sparse, uncut", result["sparse"]);
  add("after the cut", result["cut"]);
  if (result.contains("refined")) add("refined", result["refined"]);
  add("final", result["final"]);
  for (const auto& control : result["controls"])
    add("control " + control["strategy"].get<std::string>(), control);
  std::string latency;
  if (result.contains("latency")) {
    const std::string verdict = result["latency"]["verdict"];
    latency = Str("latency  ", LatencyChangeText(result["latency"]), "\n",
                  verdict.empty() ? "" : Wrapped(verdict, "         "));
  }
  const auto& certificate = result["certificate"];
  return table.Text() + Str("MACs as '", result["convention"].get<std::string>(), "' counts them\n",
                            latency, "certificate: relative error ",
                            certificate["max_rel_error"].get<double>(), ", passed\nnetwork  ",
                            result["run"].get<std::string>(), "/best/model.pt2\nreport   ",
                            result["report"].get<std::string>(), "\n");
}

/// What the strategy `front` expects of its plans; empty for others.
std::string PlansText(const ordered_json& search) {
  const ordered_json info = search.value("info", ordered_json::object());
  if (!info.contains("front") || !info.contains("forecast_on")) return "";
  const std::string metric = info["metric"];
  TextTable table({"budget", "MACs", "parameters", "forecast", "95 % interval"});
  const auto figure = [&](const ordered_json& value) {
    return value.is_number() ? FigureText(metric, value.get<double>()) : std::string("none");
  };
  for (const ordered_json& row : info["front"])
    table.Add({row.contains("budget") ? Str(row["budget"].get<double>()) : "this run's",
               Millions(row["macs"]), Millions(row["params"]), figure(row["forecast"]),
               row["low"].is_number() ? figure(row["low"]) + " to " + figure(row["high"])
                                      : std::string("none")});
  return Str("\nplans for every budget, ", MetricTitle(metric), " ",
             info.value("measured", "right after the cut"), ", from ",
             info["forecast_on"].get<std::string>(), "\n", table.Text());
}

int RunRun(const Arguments& arguments) {
  const RunConfig config = LoadRunConfig(arguments.positional()[0], arguments.List("set"));
  const auto path = RunFolderPath(config.run, config.path, arguments.Text("out"));
  // Everything that can be wrong with the input is found before a folder is made.
  std::optional<Pipeline> pipeline;
  if (!std::filesystem::exists(path / "resolved.toml")) pipeline.emplace(config, path);
  RunFolder folder(path, config.resolved_toml, arguments.Line());
  auto result = Pipeline::Result(folder);
  if (result) {
    LogInfo("'", path.string(), "' is complete; nothing to do");
  } else {
    if (folder.resumed()) LogInfo("continuing in '", path.string(), "'");
    if (!pipeline) pipeline.emplace(config, path);
    result = pipeline->Run(folder);
  }
  if (arguments.json())
    PrintJson(*result);
  else
    Print(ResultText(*result) + PlansText(*folder.Finished("search")));
  return 0;
}

void AddOptions(OptionList& add) {
  add.List("set", "A.B=VALUE", "override one key of the config, may be repeated");
  add.Text("out", "DIR", "", "the run's folder itself, instead of [run] out/name");
}

}  // namespace

const Command kRunCommand = {
    .name = "run",
    .usage = "CONFIG",
    .summary = "search, cut, fine-tune, verify and report",
    .detail =
        "Makes a run folder with best/model.pt2, best/weights.safetensors, best/state_dict.pt,\n"
        "best/plan.json, best/certificate.json and report.html. Stopped with Ctrl-C or killed,\n"
        "the same line continues where it was, to the same result.",
    .examples = {"espalier run experiments/configs/quickstart.toml",
                 "espalier run experiments/configs/autobot_resnet56.toml --set run.seed=2 --out "
                 "runs/resnet56-seed2"},
    .least_positional = 1,
    .most_positional = 1,
    .add_options = AddOptions,
    .run = RunRun};

}  // namespace espalier

#include <filesystem>
#include <nlohmann/json.hpp>

#include "env/base/log.h"
#include "experiments/commands/commands.h"
#include "experiments/league/league.h"
#include "experiments/league/league_report.h"
#include "experiments/settings.h"

namespace espalier {
namespace {

int RunLeague(const Arguments& arguments) {
  const LeagueConfig config = LoadLeagueConfig(arguments.positional()[0], arguments.List("set"));
  League league(config);
  RunFolder folder(RunFolderPath(config.run, config.path, arguments.Text("out")),
                   config.resolved_toml, arguments.Line(),
                   {"league.strategies", "league.seeds", "league.macs", "league.baselines"});
  if (folder.resumed()) LogInfo("continuing in '", folder.path().string(), "'");
  const nlohmann::ordered_json table = league.Run(folder);
  if (arguments.json())
    PrintJson(table);
  else
    Print(LeagueText(table) + Str("report  ", (folder.path() / "report.html").string(), "\n"));
  return 0;
}

void AddOptions(OptionList& add) {
  add.List("set", "A.B=VALUE", "override one key of the config, may be repeated");
  add.Text("out", "DIR", "", "the league's folder itself, instead of [run] out/name");
}

}  // namespace

const Command kLeagueCommand = {
    .name = "league",
    .usage = "CONFIG",
    .summary = "strategies against each other at equal budget, evaluations and seeds",
    .detail =
        "Searches choose on validation samples; test samples decide. Says of every\n"
        "difference whether it exceeds chance. Stopped or killed, the same line goes on;\n"
        "with other strategies, seeds or budgets it plays what the folder does not have.",
    .examples = {"espalier league experiments/configs/league_resnet20.toml",
                 "espalier league experiments/configs/league_resnet20.toml --set "
                 "'league.seeds=[1]' --out runs/league-small"},
    .least_positional = 1,
    .most_positional = 1,
    .add_options = AddOptions,
    .run = RunLeague};

}  // namespace espalier

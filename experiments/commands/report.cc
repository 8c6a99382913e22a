#include <filesystem>
#include <nlohmann/json.hpp>

#include "env/base/error.h"
#include "experiments/commands/commands.h"
#include "experiments/report.h"

namespace espalier {
namespace {

int RunReport(const Arguments& arguments) {
  const std::filesystem::path folder = arguments.positional()[0];
  if (!std::filesystem::exists(folder / "resolved.toml"))
    throw Error(ErrorKind::kIo,
                Str("'", folder.string(), "' is not a run folder: no resolved.toml"));
  const auto file = WriteReport(folder);
  if (arguments.json())
    PrintJson({{"report", file.string()}});
  else
    Print(file.string() + "\n");
  return 0;
}

}  // namespace

const Command kReportCommand = {
    .name = "report",
    .usage = "RUN",
    .summary = "write report.html again",
    .detail = "One self-contained file that needs no network. Works on an unfinished run, too.",
    .examples = {"espalier report runs/quickstart"},
    .least_positional = 1,
    .most_positional = 1,
    .run = RunReport};

}  // namespace espalier

// The executable: finds the command, runs it, and is the one place that turns errors into text and
// exit codes.

#include <cstdio>
#include <string>
#include <vector>

#include "env/base/error.h"
#include "env/base/machine.h"
#include "experiments/commands/commands.h"
#include "experiments/error_text.h"
#include "experiments/version.h"

namespace espalier {
namespace {

std::string Overview() {
  TextTable table({});
  for (const Command* command : AllCommands())
    table.Add({command->name, command->usage, command->summary});
  return Str(
      "espalier ", kVersion, ": automated pruning of neural networks\n\n",
      "usage: espalier COMMAND [arguments] [--json] [--quiet] [--threads N] [--help]\n",
      table.Text("  "), "\nespalier COMMAND --help shows options and examples.\n",
      "exit codes: 0 done, 1 bug, 2 usage or config, 3 input missing or corrupt, 4 budget not ",
      "reachable,\n  5 too many trials failed, 6 out of memory or disk, 75 interrupted and "
      "resumable\n");
}

int Dispatch(std::vector<std::string> line) {
  if (line.empty() || line[0] == "--help" || line[0] == "-h" || line[0] == "help") {
    if (line.size() < 2 || line[0] != "help") {
      Print(Overview());
      return line.empty() ? ExitCode(ErrorKind::kUsage) : 0;
    }
    line = {line[1], "--help"};
  }
  if (line[0] == "--version") {
    Print(Str("espalier ", kVersion, "\n"));
    return 0;
  }
  std::vector<std::string> names;
  for (const Command* command : AllCommands()) {
    if (command->name == line[0]) return RunCommand(*command, {line.begin() + 1, line.end()});
    names.push_back(command->name);
  }
  throw Error(ErrorKind::kUsage, Str("unknown command '", line[0], "'"),
              SuggestName(line[0], names));
}

}  // namespace
}  // namespace espalier

int main(int count, char** words) {
  espalier::KeepFreedMemory();
  try {
    return espalier::Dispatch({words + 1, words + count});
  } catch (...) {
    const auto failure = espalier::DescribeFailure(std::current_exception());
    std::fputs(failure.text.c_str(), stderr);
    return failure.exit_code;
  }
}

#include "experiments/commands/commands.h"

namespace espalier {

std::vector<const Command*> AllCommands() {
  return {&kRunCommand,    &kTrainCommand, &kEvalCommand,   &kInspectCommand,
          &kPruneCommand,  &kApplyCommand, &kVerifyCommand, &kLeagueCommand,
          &kReportCommand, &kListCommand,  &kDoctorCommand};
}

}  // namespace espalier

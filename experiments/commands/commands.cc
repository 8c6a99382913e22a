#include "experiments/commands/commands.h"

namespace espalier {

std::vector<const Command*> AllCommands() {
  return {&kRunCommand,   &kTrainCommand,  &kEvalCommand,   &kInspectCommand, &kPruneCommand,
          &kApplyCommand, &kVerifyCommand, &kReportCommand, &kListCommand,    &kDoctorCommand};
}

}  // namespace espalier

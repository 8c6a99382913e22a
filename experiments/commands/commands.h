#pragma once

#include <vector>

#include "experiments/command_line.h"

namespace espalier {

extern const Command kRunCommand, kTrainCommand, kEvalCommand, kInspectCommand, kPruneCommand,
    kApplyCommand, kVerifyCommand, kReportCommand, kLeagueCommand, kListCommand, kDoctorCommand;

/// In the order the help shows them.
std::vector<const Command*> AllCommands();

}  // namespace espalier

#pragma once

#include <vector>

#include "experiments/command_line.h"

namespace espalier {

extern const Command kTrainCommand, kEvalCommand, kListCommand, kDoctorCommand;

/// In the order the help shows them.
std::vector<const Command*> AllCommands();

}  // namespace espalier

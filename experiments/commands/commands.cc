#include "experiments/commands/commands.h"

namespace espalier {

std::vector<const Command*> AllCommands() {
  return {&kTrainCommand, &kEvalCommand, &kListCommand, &kDoctorCommand};
}

}  // namespace espalier

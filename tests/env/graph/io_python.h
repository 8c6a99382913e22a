#pragma once

#include <string>

#include "env/graph/network.h"
#include "tests/env/graph/io_testing.h"

namespace espalier {

/// Runs tests/e2e/check_pt2.py; empty when it succeeded, else what it printed.
std::string RunCheck(const std::string& python, const TempFolder& folder, const std::string& args);

/// Writes the network and what it computes for two batch sizes, and has PyTorch compare: load, run,
/// unflatten, gradients, export again. Empty when all is well.
std::string CheckProgram(const std::string& python, const TempFolder& folder,
                         const Network& network);

}  // namespace espalier
